"""An ImageGenerationService that answers by a script: one entry a call, in order, whichever stream is asked for."""

import concurrent.futures
import contextlib
import hashlib
import io
import threading

import grpc
import harness
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

PIXELS = b"\x89PNG one image's bytes" * 40


def rich_error(code: grpc.StatusCode, message: str, *details):
    """What context.abort_with_status takes."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)

    class Rich(grpc.Status):
        pass

    rich = Rich()
    rich.code, rich.details = code, message
    rich.trailing_metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    return rich


def refusal(code: grpc.StatusCode, reason: str, retry_after: float | None = None, message: str = "scripted"):
    """A status with ErrorInfo, and RetryInfo if there is a time."""
    details = [error_details_pb2.ErrorInfo(reason=reason, domain="patchflow", metadata={"capacity": "8"})]
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return rich_error(code, message, *details)


class Script:
    """The parts of a stream: `yield from` them in an entry."""

    def __init__(self, request_id: str):
        self.pb = harness.api()[0]
        self.request_id = request_id
        self.sequence = 0

    def message(self, **event):
        self.sequence += 1
        return self.pb.GenerateImagesResponse(request_id=self.request_id, sequence=self.sequence, **event)

    def accepted(self, count: int = 1):
        effective = self.pb.EffectiveParams(width=64, height=64, count=count, steps=4, format=1, seed=9)
        yield self.message(accepted=self.pb.Accepted(effective=effective, plan_digest="plan"))

    def steps(self, *steps: int):
        for step in steps:
            progress = self.pb.Progress(state=self.pb.STATE_RUNNING, step=step, total_steps=4, attempt=1)
            yield self.message(progress=progress)

    def preview(self, step: int, colour: str = "teal", index: int = 0):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), colour).save(file, "PNG")
        preview = self.pb.Preview(image_index=index, step=step, format=1, data=file.getvalue())
        yield self.message(preview=preview)

    def header(self, index: int = 0, data: bytes = PIXELS, **fields):
        values = dict(image_index=index, format=1, width=64, height=64, seed=9 + index)
        values |= dict(total_bytes=len(data), sha256=hashlib.sha256(data).digest())
        yield self.message(image_header=self.pb.ImageHeader(**(values | fields)))

    def chunks(self, index: int = 0, data: bytes = PIXELS, size: int = 300):
        for offset in range(0, len(data), size):
            piece = data[offset : offset + size]
            yield self.message(image_chunk=self.pb.ImageChunk(image_index=index, offset=offset, data=piece))

    def image(self, index: int = 0, data: bytes = PIXELS):
        yield from self.header(index, data)
        yield from self.chunks(index, data)

    def completed(self):
        yield self.message(completed=self.pb.Completed(attempts=1, server_version="scripted"))

    def all(self, count: int = 1):
        yield from self.accepted(count)
        yield from self.steps(1, 2, 3, 4)
        for index in range(count):
            yield from self.image(index)
        yield from self.completed()


class ScriptedService(harness.api()[1].ImageGenerationServiceServicer):
    """An entry is a grpc.Status, to be refused with, or a function of (Script, context) that yields messages.

    ListModels takes entries too, unless `models` answers it always.
    """

    def __init__(self, entries, models=None):
        self.entries = list(entries)
        self.models = models
        self.calls: list[tuple[str, object, dict]] = []
        self.lock = threading.Lock()

    def _answer(self, method, request, context):
        with self.lock:
            self.calls.append((method, request, dict(context.invocation_metadata())))
            entry = self.entries.pop(0)
        if isinstance(entry, grpc.Status):
            context.abort_with_status(entry)
        yield from entry(Script(request.request_id), context)

    def GenerateImages(self, request, context):
        yield from self._answer("GenerateImages", request, context)

    def FetchGeneration(self, request, context):
        pb = harness.api()[0]
        for message in self._answer("FetchGeneration", request, context):
            yield pb.FetchGenerationResponse(message=message)

    @property
    def streams(self):
        return [call for call in self.calls if call[0] in ("GenerateImages", "FetchGeneration")]

    def ListModels(self, request, context):
        if self.models is not None:
            return self.models
        with self.lock:
            self.calls.append(("ListModels", request, dict(context.invocation_metadata())))
            entry = self.entries.pop(0)
        if isinstance(entry, grpc.Status):
            context.abort_with_status(entry)
        return entry

    def CancelGeneration(self, request, context):
        with self.lock:
            self.calls.append(("CancelGeneration", request, dict(context.invocation_metadata())))
        return harness.api()[0].CancelGenerationResponse(state=harness.api()[0].STATE_CANCELLED)


@contextlib.contextmanager
def serving(*entries, models=None):
    """Yields (address, service)."""
    service = ScriptedService(entries, models)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    harness.api()[1].add_ImageGenerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", service
    finally:
        server.stop(0).wait(5)
