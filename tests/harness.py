"""Starts the built programs for the Python tests, and speaks to them with a stock gRPC client."""

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import grpc

TOP = pathlib.Path(__file__).resolve().parent.parent
BIN = TOP / "build" / "bin"
BUNDLED = TOP / "models" / "shapes-256"
READY_TIMEOUT_S = 60


@functools.cache
def api():
    """The generated modules (image_generation_pb2, image_generation_pb2_grpc), made once a process."""
    out = tempfile.mkdtemp(prefix="patchflow-stubs-")
    proto = "patchflow/v1/image_generation.proto"
    # In a process of its own: grpc_tools and sentencepiece carry two versions of protobuf with one unique symbol
    # (ShutdownData::get()::data), so that a process that loads both aborts now and then.
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{TOP / 'proto'}"]
    subprocess.run([*compiler, f"--python_out={out}", f"--grpc_python_out={out}", proto], check=True)
    sys.path.insert(0, out)
    return (
        importlib.import_module("patchflow.v1.image_generation_pb2"),
        importlib.import_module("patchflow.v1.image_generation_pb2_grpc"),
    )


@dataclasses.dataclass
class Group:
    model: pathlib.Path
    model_name: str = ""
    name: str = ""
    ranks: int = 1
    layout: dict = dataclasses.field(default_factory=dict)
    device: str = "cpu"
    dtype: str = ""

    def config(self) -> dict:
        config = {"model": str(self.model), "device": self.device, "ranks": self.ranks}
        for key in ("name", "model_name", "layout", "dtype"):
            if getattr(self, key):
                config[key] = getattr(self, key)
        return config


class Server:
    """A patchflow-server with its workers, on free ports. Use as a context manager."""

    def __init__(self, groups: list[Group], extra: dict | None = None):
        self.directory = tempfile.TemporaryDirectory(prefix="patchflow-test-")
        config = {"server": {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"}}
        config["groups"] = [group.config() for group in groups]
        config.update(extra or {})
        path = pathlib.Path(self.directory.name)
        (path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML.
        self.log_path = path / "server.log"
        self.launch()

    def launch(self):
        """Starts the process and connects; the log begins anew."""
        command = [BIN / "patchflow-server", "--config", self.log_path.with_name("config.yaml")]
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, cwd=TOP)
        try:
            self.address = self._bound("listen")
            self.metrics_address = self._bound("metrics")
            self.channel = grpc.insecure_channel(
                self.address, options=[("grpc.max_receive_message_length", 64 << 20)]
            )
            self.stub = api()[1].ImageGenerationServiceStub(self.channel)
        except BaseException:
            self.close()
            raise

    def log(self) -> str:
        return self.log_path.read_text()

    def _bound(self, what: str) -> str:
        """The address in the log line {"msg": "listening", "listen": ..., "metrics": ...}."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            match = re.search(rf'"{what}":\s*"([^"]+:\d+)"', self.log())
            if match:
                return match[1]
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            time.sleep(0.02)
        raise TimeoutError(f"no address for {what} in the log:\n{self.log()}")

    def wait_ready(self, models: int = 1) -> "Server":
        """Until so many models are ready."""
        pb, _ = api()
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            listed = self.stub.ListModels(pb.ListModelsRequest(), timeout=10, wait_for_ready=True)
            if sum(model.ready for model in listed.models) >= models:
                return self
            time.sleep(0.1)
        raise TimeoutError(f"{models} models were not ready in {READY_TIMEOUT_S} s:\n{self.log()}")

    def close(self):
        if getattr(self, "channel", None):
            self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.directory.cleanup()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_):
        self.close()


@dataclasses.dataclass
class Result:
    accepted: object
    progress: list
    images: list[bytes]
    headers: list
    completed: object


def generate(server: Server, request, timeout_s: float = 300) -> Result:
    """Runs a GenerateImages to its end and checks the rules of the stream on the way."""
    result = Result(None, [], [], [], None)
    last_sequence = 0
    for message in server.stub.GenerateImages(request, timeout=timeout_s):
        assert message.sequence > last_sequence
        last_sequence = message.sequence
        assert result.completed is None, "a message after Completed"
        kind = message.WhichOneof("event")
        assert (kind == "accepted") == (result.accepted is None), "Accepted comes first, once"
        if kind == "accepted":
            result.accepted = message.accepted
        elif kind == "progress":
            result.progress.append(message.progress)
        elif kind == "image_header":
            assert message.image_header.image_index == len(result.images)
            result.headers.append(message.image_header)
            result.images.append(b"")
        elif kind == "image_chunk":
            assert message.image_chunk.image_index == len(result.images) - 1
            assert message.image_chunk.offset == len(result.images[-1])
            result.images[-1] += message.image_chunk.data
        elif kind == "completed":
            result.completed = message.completed
    assert result.completed is not None
    for header, data in zip(result.headers, result.images, strict=True):
        assert header.total_bytes == len(data)
        assert header.sha256 == hashlib.sha256(data).digest()
    return result


def environment_threads() -> int:
    return len(os.sched_getaffinity(0))
