"""Users of Patchflow for Locust (https://locust.io), over gRPC:

    locust -f bench/load/locustfile.py --host 127.0.0.1:50051 [--mix 256x256:4:3,512x512:4:1]

Statistics are by size and steps: "accepted", "running" (until a group works on the request) and "done". A stream that breaks
the rules of the API is a failure, as is any status but OK.
"""

import hashlib
import importlib
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import grpc
import grpc.experimental.gevent
from locust import User, constant, events, task

grpc.experimental.gevent.init_gevent()
TOP = pathlib.Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 300


def load_api():
    """The generated modules. Made by a process of its own, whose protobuf is not ours."""
    out = tempfile.mkdtemp(prefix="patchflow-stubs-")
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{TOP / 'proto'}"]
    proto = "patchflow/v1/image_generation.proto"
    subprocess.run([*compiler, f"--python_out={out}", f"--grpc_python_out={out}", proto], check=True)
    sys.path.insert(0, out)
    return (
        importlib.import_module("patchflow.v1.image_generation_pb2"),
        importlib.import_module("patchflow.v1.image_generation_pb2_grpc"),
    )


pb, pb_grpc = load_api()


@events.init_command_line_parser.add_listener
def add_arguments(parser):
    parser.add_argument(
        "--mix", default="256x256:4:1", help="WxH:STEPS:WEIGHT,... of the requests", include_in_web_ui=True
    )


def parse_mix(text: str) -> list[tuple[int, int, int, float]]:
    shapes = []
    for part in text.split(","):
        try:
            size, steps, weight = part.split(":")
            width, height = size.split("x")
            shapes.append((int(width), int(height), int(steps), float(weight)))
        except ValueError:
            raise ValueError(f"--mix: '{part}' is not WxH:STEPS:WEIGHT") from None
    return shapes


class Broken(Exception):
    """The server broke the rules of its stream."""


class Stream:
    """Follows one generation; `after` tells when what came, in milliseconds."""

    def __init__(self):
        self.began = time.monotonic()
        self.after = {}
        self.image_bytes = 0
        self._header = None
        self._data = b""
        self._completed = False

    def take(self, message):
        kind = message.WhichOneof("event")
        if kind == "accepted":
            self._note("accepted")
        elif kind == "progress" and message.progress.state == pb.STATE_RUNNING:
            self._note("running")
        elif kind == "image_header":
            self._note("running")
            self._header, self._data = message.image_header, b""
        elif kind == "image_chunk":
            self._take_chunk(message.image_chunk)
        elif kind == "completed":
            self._completed = True

    def _note(self, what: str):
        self.after.setdefault(what, 1000 * (time.monotonic() - self.began))

    def _take_chunk(self, chunk):
        if self._header is None or chunk.offset != len(self._data):
            raise Broken(f"a chunk at {chunk.offset} after {len(self._data)} bytes")
        self._data += chunk.data
        if len(self._data) < self._header.total_bytes:
            return
        if hashlib.sha256(self._data).digest() != self._header.sha256:
            raise Broken("the SHA-256 of an image's bytes is not its header's")
        self.image_bytes += len(self._data)
        self._header = None

    def finish(self):
        self._note("done")
        if not self._completed or self._header is not None or not self.image_bytes:
            raise Broken("the stream ended with OK and is not whole")


class PatchflowUser(User):
    wait_time = constant(0)

    def on_start(self):
        self.shapes = parse_mix(self.environment.parsed_options.mix)
        # Each user is a client with a connection of its own.
        self.channel = grpc.insecure_channel(self.host, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = pb_grpc.ImageGenerationServiceStub(self.channel)

    def on_stop(self):
        self.channel.close()

    @task
    def generate(self):
        width, height, steps, _ = random.choices(self.shapes, [shape[3] for shape in self.shapes])[0]
        request = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red star"))
        request.image.width, request.image.height = width, height
        request.sampling.steps = steps
        stream, failure = Stream(), None
        try:
            for message in self.stub.GenerateImages(request, timeout=TIMEOUT_S):
                stream.take(message)
            stream.finish()
        except (grpc.RpcError, Broken) as error:
            failure = error if isinstance(error, Broken) else RuntimeError(f"{error.code().name}: {error.details()}")
            stream.after["done"] = 1000 * (time.monotonic() - stream.began)
        for what, milliseconds in stream.after.items():
            self.environment.events.request.fire(
                request_type=what,
                name=f"{width}x{height}, {steps} steps",
                response_time=milliseconds,
                response_length=stream.image_bytes if what == "done" else 0,
                exception=failure if what == "done" else None,
            )
