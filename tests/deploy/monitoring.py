"""A front end with fake workers under load, and a real Prometheus that scrapes it, all on loopback."""

import contextlib
import json
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import grpc
import harness
import yaml
from tools import RULES, tool

FAKE_WORKER = harness.BIN / "patchflow-fake-worker"
MODEL = "shapes"
STEP_MS = 2
SCRAPE_S = 1


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


class RemoteGroup:
    """A fake worker of two ranks that was started by hand, and its entry in the front end's configuration."""

    def __init__(self, name: str):
        self.name = name
        self.port = free_port()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [FAKE_WORKER, "--listen", f"127.0.0.1:{self.port}", "--ranks", "2", "--step-ms", str(STEP_MS)]
        )

    def config(self) -> dict:
        return {"name": self.name, "model_name": MODEL, "workers": [f"127.0.0.1:{self.port}"]}

    def kill(self):
        self.process.kill()
        self.process.wait()


class Load:
    """Clients that ask for all kinds of images, cancel some, and send some that must be refused."""

    CLIENTS = 6

    def __init__(self, server: harness.Server):
        self.server = server
        self.stopping = threading.Event()
        self.failures: list[str] = []
        self.threads = [threading.Thread(target=self._guard, args=(i,)) for i in range(self.CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _guard(self, number: int):
        draw = random.Random(number)
        while not self.stopping.is_set():
            try:
                self._one(draw)
            except grpc.RpcError as error:
                expected = (grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED,
                            grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE)
                if error.code() not in expected:
                    self.failures.append(f"{error.code()}: {error.details()}")

    def _one(self, draw: random.Random):
        pb, _ = harness.api()
        size = draw.choice([64, 256, 512, 1024])
        request = pb.GenerateImagesRequest(
            model=MODEL,
            prompt=pb.Prompt(text="a fox"),
            image=pb.ImageSpec(width=size, height=size, count=draw.choice([1, 1, 2])),
            sampling=pb.SamplingParams(steps=draw.choice([2, 4, 8])),
        )
        request.scheduling.priority = draw.choice([pb.PRIORITY_LOW, pb.PRIORITY_NORMAL])
        request.stream.preview_every_steps = draw.choice([0, 1])
        kind = draw.random()
        if kind < 0.1:
            request.image.width = 17  # Not a multiple of 16.
        call = self.server.stub.GenerateImages(request, timeout=30)
        if kind > 0.8:
            request.sampling.steps = 200
            time.sleep(draw.choice([0.001, 0.02]))
            call.cancel()
        for _ in call:
            pass

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(40)
        assert not any(thread.is_alive() for thread in self.threads), "a client hangs"
        assert not self.failures, self.failures[:5]


class Prometheus:
    """Debian's program with deploy's rules, on a free port, storing into a folder of its own."""

    def __init__(self, targets: list[str]):
        self.directory = tempfile.TemporaryDirectory(prefix="patchflow-prometheus-")
        path = pathlib.Path(self.directory.name)
        config = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [str(rule) for rule in RULES],
            "scrape_configs": [{"job_name": "patchflow", "static_configs": [{"targets": targets, "labels": {"namespace": "patchflow"}}]}],
        }
        (path / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log_path = path / "log"
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [tool("prometheus"), f"--config.file={path / 'prometheus.yml'}", f"--storage.tsdb.path={path / 'data'}",
                 f"--web.listen-address={address}"], stdout=log, stderr=log,
            )

    def wait_ready(self, timeout_s: float = 30):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                get(f"{self.url}/-/ready")
                return
            assert self.process.poll() is None, self.log_path.read_text()
            time.sleep(0.1)
        raise TimeoutError(f"prometheus is not ready after {timeout_s} s:\n{self.log_path.read_text()}")

    def api(self, path: str, **parameters) -> dict:
        answer = json.loads(get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[float]:
        """Of every series that the query returns now."""
        return [float(series["value"][1]) for series in self.api("query", query=query)["result"]]

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.directory.cleanup()


class Site:
    """The front end with two groups, the load and Prometheus."""

    def __init__(self):
        with contextlib.ExitStack() as stack:
            self.groups = [RemoteGroup("a"), RemoteGroup("b")]
            stack.callback(lambda: [group.kill() for group in self.groups])
            extra = {
                "limits": {"max_queue": 4},
                "supervision": {"back_off": "10ms"},
                "store": {"directory": "store"},
                "audit": {"file": "audit.jsonl"},
            }
            self.server = stack.enter_context(harness.Server(self.groups, extra))
            self.server.wait_ready()
            self.prometheus = Prometheus([self.server.metrics_address])
            stack.callback(self.prometheus.close)
            self.prometheus.wait_ready()
            self.load = Load(self.server)
            stack.callback(self.load.stop)
            self.stack = stack.pop_all()

    def metrics_text(self) -> str:
        return get(f"http://{self.server.metrics_address}/metrics")

    def lose_a_worker(self):
        self.groups[1].kill()
        self.groups[1].start()
