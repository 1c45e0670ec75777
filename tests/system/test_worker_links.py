"""Front end and worker as two programs over TCP: mutual TLS, and what is refused at start."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

import grpc
import harness
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

DAY_EXPIRED = "-1"


class Pki:
    """An authority, and pairs for this host signed by it."""

    def __init__(self, folder: pathlib.Path):
        folder.mkdir()
        self.folder = folder
        self._openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt -subj /CN=authority")

    def pair(self, name: str, days: str = "30") -> "Pki":
        (self.folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        self._openssl(f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
        self._openssl(f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -extfile names "
                      f"-out {name}.crt")
        return self

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def _openssl(self, words: str):
        subprocess.run(["openssl", *words.split()], cwd=self.folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    return Pki(tmp_path_factory.mktemp("links") / "one").pair("front").pair("worker").pair("old", DAY_EXPIRED)


def tls_flags(pki: Pki, name: str) -> list[str]:
    return ["--tls-cert", pki.path(f"{name}.crt"), "--tls-key", pki.path(f"{name}.key"), "--tls-ca", pki.path("ca.crt")]


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def worker_command(*flags: str) -> list:
    return [harness.BIN / "patchflow-worker", "--model", harness.BUNDLED, "--device", "cpu", *flags]


@contextlib.contextmanager
def worker(address: str, pki: Pki, log: pathlib.Path = pathlib.Path(os.devnull)):
    command = worker_command("--listen", address, *tls_flags(pki, "worker"))
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr) as one:
        try:
            yield one
        finally:
            one.kill()


class Far(harness.Group):
    def config(self) -> dict:
        return {"model_name": "shapes", "workers": [self.name]}


def front(address: str, workers: dict) -> harness.Server:
    return harness.Server([Far(harness.BUNDLED, name=address)], {"security": {"workers": workers}} if workers else {})


def links(pki: Pki, authority: Pki) -> dict:
    return {"certificate": pki.path("front.crt"), "key": pki.path("front.key"), "ca": authority.path("ca.crt")}


def complains(server: harness.Server, text: str) -> bool:
    """Whether the log says so of the worker, soon: it may not have listened when it was first asked."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any("worker not reached" in line and text in line for line in server.log().splitlines()):
            return True
        time.sleep(0.1)
    return False


def test_images_come_over_mutual_tls(pki):
    address = free_address()
    with worker(address, pki), front(address, links(pki, pki)) as server:
        server.wait_ready()
        pb, _ = harness.api()
        asked = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red star"))
        asked.sampling.steps, asked.sampling.seed = 2, 5
        assert len(harness.generate(server, asked).images) == 1


def test_who_is_not_trusted_is_told(pki, tmp_path):
    address = free_address()
    stranger = Pki(tmp_path / "two").pair("front")
    with worker(address, pki):
        with front(address, links(pki, stranger)) as server:  # Does not trust the worker.
            assert complains(server, "certificate verify failed"), server.log()
        for workers in ({}, links(stranger, pki)):  # No TLS; not trusted by the worker.
            with front(address, workers) as server:
                assert complains(server, address), server.log()
                pb, _ = harness.api()
                assert not server.stub.ListModels(pb.ListModelsRequest(), timeout=10).models[0].ready


def says_within(seconds: float, log: pathlib.Path, text: str):
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_worker_keeps_its_pair_while_the_files_are_broken_and_then_takes_the_new_one(pki, tmp_path):
    now = Pki(tmp_path / "now").pair("worker")
    other = Pki(tmp_path / "two").pair("front").pair("worker")

    def install(source: Pki):
        for name in ("worker.crt", "worker.key", "ca.crt"):
            shutil.copy(source.path(name), now.path(name))

    def serves(of: Pki):
        with front(address, links(of, of)) as server:  # A new connection.
            server.wait_ready()

    install(pki)
    address, log = free_address(), tmp_path / "log"
    with worker(address, now, log):
        serves(pki)
        pathlib.Path(now.path("worker.key")).write_text("garbage")
        says_within(30, log, "files not put into use; the old ones stay")
        time.sleep(1.5)  # gRPC looks each second.
        serves(pki)
        assert log.read_text().count("files not put into use") == 1, log.read_text()
        install(other)
        says_within(30, log, "TLS files put into use")
        time.sleep(1.5)
        serves(other)


@pytest.mark.parametrize("flags, says", [
    (["--listen", "0.0.0.0:0"], "would be open to whoever reaches it"),
    (["--listen", "127.0.0.1:0"], "on this host every user, without encryption or authentication"),
    (["--listen", "127.0.0.1:0", "--tls-cert", "w.crt"], "--tls-cert, --tls-key and --tls-ca go together"),
    (["--socket", "s", "--plaintext"], "--plaintext has no meaning without --listen"),
    (["--listen", "127.0.0.1:0", *["--tls-cert", "w", "--tls-key", "w", "--tls-ca", "w"]], "--tls-cert: w: cannot be read"),
])
def test_a_worker_refuses_what_would_not_be_safe(flags, says):
    done = subprocess.run(worker_command(*flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_worker_refuses_a_certificate_that_has_expired_and_another_s_key(pki):
    for flags, says in ((tls_flags(pki, "old"), ": expired "),
                        (["--tls-cert", pki.path("worker.crt"), "--tls-key", pki.path("front.key"), "--tls-ca",
                          pki.path("ca.crt")], "does not belong to the certificate")):
        done = subprocess.run(worker_command("--listen", "127.0.0.1:0", *flags), capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and says in done.stderr, done.stderr


def test_probes_need_no_certificate(pki):
    address, health = free_address(), free_address()
    command = worker_command("--listen", address, "--health", health, *tls_flags(pki, "worker"))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as one, grpc.insecure_channel(health) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            asked = health_pb2.HealthCheckRequest(service="liveness")
            answer = stub.Check(asked, timeout=30, wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            method = channel.unary_unary("/patchflow.worker.v1.WorkerService/Describe")
            with pytest.raises(grpc.RpcError) as error:
                method(b"", timeout=10)
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        finally:
            one.kill()
