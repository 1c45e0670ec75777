"""The manifests against the built programs: they take the configuration and the flags that are written there."""

import functools
import json
import pathlib
import signal
import subprocess

import grpc
import harness
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import BIN, BUNDLED
from manifests import SOURCES, container, frontend_config, is_frontend, objects, pods
from monitoring import free_port
from tools import run

sources = pytest.mark.parametrize("source", SOURCES)
TIMEOUT_S = 20
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def start(*command) -> subprocess.Popen:
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen) -> str:
    """All that it says until it ends."""
    try:
        return process.communicate(timeout=TIMEOUT_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def make_secrets(root: pathlib.Path):
    """What the Secrets hold, at the paths where the pod has them, below `root`."""
    for name in ("tls", "client-ca", "tokens", "workers"):
        (root / f"etc/patchflow-{name}").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/patchflow").mkdir(parents=True, exist_ok=True)
    pair = root / "etc/patchflow-tls"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", pair / "tls.key", "-out", pair / "tls.crt")
    for copy in ("client-ca/ca.crt", "workers/ca.crt", "workers/tls.crt", "workers/tls.key"):
        source = pair / ("tls.key" if copy.endswith("key") else "tls.crt")
        (root / f"etc/patchflow-{copy}").write_text(source.read_text())
    tokens = {"tokens": [{"name": "studio", "token": "a-token-of-the-tests"}]}
    (root / "etc/patchflow-tokens/tokens.yaml").write_text(yaml.safe_dump(tokens))
    for path in root.glob("etc/*/*"):
        path.chmod(0o600)


def server_says(config: dict, tmp_path) -> tuple[int, str]:
    """Starts patchflow-server with the configuration on ports and files of its own, stops it once it listens."""
    config["server"] = {key: "127.0.0.1:0" for key in config["server"]}
    config["drain"]["delay"] = "0s"
    text = yaml.safe_dump(config)
    for folder in ("etc", "var/lib"):
        text = text.replace(f"/{folder}/patchflow", f"{tmp_path}/{folder}/patchflow")
    make_secrets(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    process = start(BIN / "patchflow-server", "--config", tmp_path / "config.yaml")
    said = ""
    for line in process.stdout:
        said += line
        if '"listening"' in line:
            process.send_signal(signal.SIGTERM)
            break
    said += ended(process)
    return process.returncode, said


@sources
def test_the_server_takes_the_configuration(source, tmp_path):
    code, said = server_says(frontend_config(objects(source)), tmp_path)
    assert code == 0 and '"listening"' in said, said


def worker_arguments(pod: dict, **changes) -> list[str]:
    arguments = dict(word.split("=", 1) for word in container(pod)["args"])
    arguments |= {"--listen": "127.0.0.1:0"} | {f"--{key}": value for key, value in changes.items()}
    return [f"{key}={value}" for key, value in arguments.items()]


@functools.cache
def worker_says(arguments: tuple[str, ...]) -> tuple[int, str]:
    """Groups that differ in name alone have the same."""
    process = start(BIN / "patchflow-worker", *arguments)
    said = ended(process)
    return process.returncode, said


@sources
def test_the_worker_takes_its_flags(source, tmp_path):
    """All but the folder, which is not there: that is then the first thing that it refuses."""
    for pod in pods(objects(source)):
        if is_frontend(pod):
            continue
        if pod["owner"]["kind"] == "LeaderWorkerSet":
            flags = {key: int(value) for key, value in (word.split("=", 1) for word in container(pod)["args"]) if value.isdigit()}
            size = pod["owner"]["spec"]["leaderWorkerTemplate"]["size"]
            assert flags["--group-ranks"] == flags["--ranks"] * size
        changes = {"model": "/nonexistent/model", "device": "cpu", "dtype": "float32"}
        arguments = worker_arguments(pod, **changes)
        if any("/etc/patchflow" in word for word in arguments):
            make_secrets(tmp_path)
            arguments = [word.replace("/etc/patchflow", f"{tmp_path}/etc/patchflow") for word in arguments]
        code, said = worker_says(tuple(arguments))
        assert code == 2, said
        last = json.loads(said.splitlines()[-1])
        assert "/nonexistent/model" in last["why"] and "--" not in last["why"], said


def test_a_flag_that_the_worker_does_not_have_is_found(tmp_path):
    pod = next(pod for pod in pods(objects("overlay:cpu")) if not is_frontend(pod))
    process = start(BIN / "patchflow-worker", *worker_arguments(pod, model=tmp_path), "--device-type=cpu")
    said = ended(process)
    assert process.returncode == 2 and "device-type" in said


class RenderedGroup:
    """A group as the manifests describe it, its worker running here on the bundled model and CPUs, with Secrets below `root`."""

    def __init__(self, everything: list[dict], root: pathlib.Path):
        make_secrets(root)
        [self.entry] = frontend_config(everything)["groups"]
        [pod] = [pod for pod in pods(everything) if not is_frontend(pod)]
        self.address = f"127.0.0.1:{free_port()}"
        self.entry["workers"] = [self.address]
        changes = {"listen": self.address, "model": BUNDLED, "device": "cpu", "dtype": "float32", "threads": 1}
        if any(word.startswith("--warm-up=") for word in container(pod)["args"]):
            changes["warm-up"] = "64x64,128x64"  # Those of a GPU take a CPU minutes.
        self.probed = changes["health"] = f"127.0.0.1:{free_port()}"
        self.probes = {probe: container(pod)[probe]["grpc"]["service"] for probe in PROBES}
        arguments = [word.replace("=/etc/", f"={root}/etc/") for word in worker_arguments(pod, **changes)]
        links = frontend_config(everything)["security"]["workers"]
        self.links = {key: path.replace("/etc/", f"{root}/etc/") for key, path in links.items()}
        self.worker = subprocess.Popen([BIN / "patchflow-worker", *arguments], stderr=subprocess.DEVNULL)

    def config(self) -> dict:
        return self.entry

    def stop(self):
        self.worker.terminate()
        try:
            self.worker.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.wait()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", ["overlay:cpu", "overlay:eight-gpus"])
def test_what_an_overlay_describes_draws_an_image_and_answers_its_probes(source, tmp_path):
    everything = objects(source)
    group = RenderedGroup(everything, tmp_path)
    try:
        # The listener for probes as the manifests have it, but for the address.
        probed = f"127.0.0.1:{free_port()}"
        assert frontend_config(everything)["server"]["health"].startswith("0.0.0.0:")
        assert "plaintext" not in group.links
        listeners = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "health": probed}
        with harness.Server([group], {"server": listeners, "security": {"workers": group.links}}) as server:
            server.wait_ready()
            [pod] = [pod for pod in pods(everything) if is_frontend(pod)]
            probes = {probe: container(pod)[probe]["grpc"]["service"] for probe in PROBES}
            for address, services in ((probed, probes), (group.probed, group.probes)):
                with grpc.insecure_channel(address) as channel:
                    for service in services.values():
                        asked = health_pb2.HealthCheckRequest(service=service)
                        answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
                        assert answer.status == health_pb2.HealthCheckResponse.SERVING
            pb, _ = harness.api()
            request = pb.GenerateImagesRequest(
                model=group.entry["model_name"], prompt=pb.Prompt(text="a red heart"), sampling=pb.SamplingParams(steps=3)
            )
            [image] = harness.generate(server, request, timeout_s=120).images
            assert image.startswith(b"\x89PNG")
    finally:
        group.stop()
