"""What is asked for."""

from __future__ import annotations

import dataclasses
import enum
import secrets
import uuid
from typing import TYPE_CHECKING, Any

from patchflow.v1 import image_generation_pb2 as pb

if TYPE_CHECKING:
    from typing_extensions import TypedDict
else:
    from typing import TypedDict

MAX_SEED = 2**53 - 1


class Format(enum.IntEnum):
    """File formats."""

    PNG = pb.IMAGE_FORMAT_PNG
    JPEG = pb.IMAGE_FORMAT_JPEG
    WEBP = pb.IMAGE_FORMAT_WEBP
    RAW = pb.IMAGE_FORMAT_RAW_RGB8  # Rows from the top, 3 bytes a pixel.

    @property
    def extension(self) -> str:
        return {Format.PNG: "png", Format.JPEG: "jpg", Format.WEBP: "webp", Format.RAW: "rgb"}[self]

    @property
    def mime_type(self) -> str:
        names = {Format.PNG: "image/png", Format.JPEG: "image/jpeg", Format.WEBP: "image/webp"}
        return names.get(self, "application/octet-stream")


class Priority(enum.IntEnum):
    """Order in the queue. HIGH may need a right."""

    LOW = pb.PRIORITY_LOW
    NORMAL = pb.PRIORITY_NORMAL
    HIGH = pb.PRIORITY_HIGH


class OnDisconnect(enum.IntEnum):
    """What becomes of a generation whose last stream is gone."""

    CANCEL = pb.DISCONNECT_POLICY_CANCEL  # It stops within one step.
    DETACH = pb.DISCONNECT_POLICY_DETACH  # It goes on; fetch() gets the images.


class State(enum.IntEnum):
    """Where a generation is."""

    UNKNOWN = pb.STATE_UNSPECIFIED  # Only as cancel()'s answer: never seen.
    QUEUED = pb.STATE_QUEUED
    RUNNING = pb.STATE_RUNNING
    SUCCEEDED = pb.STATE_SUCCEEDED
    FAILED = pb.STATE_FAILED
    CANCELLED = pb.STATE_CANCELLED

    @property
    def ended(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fields:
    """What an ImageRequest has besides the prompt. None is the model's default."""

    negative: str | None = None
    model: str = ""  # Needed if the server has several.
    width: int | None = None  # Pixels, multiples of 16.
    height: int | None = None
    count: int | None = None  # Image i has seed + i.
    steps: int | None = None
    guidance: float | None = None  # Classifier-free guidance scale; 1 runs the prompt alone.
    seed: int | None = None  # Drawn here if None, so that a retry asks for the same images.
    scheduler: str | None = None
    format: Format = Format.PNG
    quality: int | None = None  # 1 to 100, for JPEG and WebP.
    embed_metadata: bool = False  # Prompt and parameters go into the file.
    request_id: str = ""  # A UUID is drawn here if empty.
    progress_every: int = 1  # Steps.
    preview_every: int = 0  # Steps; 0 for no previews.
    preview_edge: int = 0  # Longest side in pixels; 0 is the server's default.
    priority: Priority = Priority.NORMAL
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL


class RequestFields(TypedDict, total=False):
    """Keywords of generate(), stream() and validate(): the fields of ImageRequest but `prompt`."""

    negative: str | None
    model: str
    width: int | None
    height: int | None
    count: int | None
    steps: int | None
    guidance: float | None
    seed: int | None
    scheduler: str | None
    format: Format
    quality: int | None
    embed_metadata: bool
    request_id: str
    progress_every: int
    preview_every: int
    preview_edge: int
    priority: Priority
    on_disconnect: OnDisconnect


@dataclasses.dataclass(frozen=True)
class ImageRequest(_Fields):
    """A prompt and how to draw it. Ranges are the server's to check."""

    prompt: str

    def to_proto(self, timeout: float, *, validate_only: bool = False) -> pb.GenerateImagesRequest:
        """The API's message. ValueError, naming the field, for a value that it can't hold."""
        request = pb.GenerateImagesRequest(validate_only=validate_only)
        seed = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed
        values: list[tuple[str, Any, str, Any]] = [
            ("prompt", request.prompt, "text", self.prompt),
            ("negative", request.prompt, "negative_text", self.negative),
            ("model", request, "model", self.model),
            ("request_id", request, "request_id", self.request_id or str(uuid.uuid4())),
            ("width", request.image, "width", self.width),
            ("height", request.image, "height", self.height),
            ("count", request.image, "count", self.count),
            ("steps", request.sampling, "steps", self.steps),
            ("guidance", request.sampling, "guidance_scale", self.guidance),
            ("seed", request.sampling, "seed", seed),
            ("scheduler", request.sampling, "scheduler", self.scheduler),
            ("format", request.output, "format", self.format),
            ("quality", request.output, "quality", self.quality),
            ("embed_metadata", request.output, "embed_metadata", self.embed_metadata),
            ("priority", request.scheduling, "priority", self.priority),
            ("on_disconnect", request.scheduling, "on_disconnect", self.on_disconnect),
        ]
        for name, message, field, value in values:
            if value is not None:
                _set(name, message, field, value)
        request.stream.CopyFrom(stream_options(self.progress_every, self.preview_every, self.preview_edge))
        # The generation ends with the call, also when it is detached.
        request.scheduling.timeout.FromNanoseconds(int(timeout * 1e9))
        return request


def stream_options(progress_every: int, preview_every: int, preview_edge: int) -> pb.StreamOptions:
    """The API's message. ValueError, naming the field, for a value that it can't hold."""
    options = pb.StreamOptions()
    _set("progress_every", options, "progress_every_steps", progress_every)
    _set("preview_every", options, "preview_every_steps", preview_every)
    _set("preview_edge", options, "preview_max_edge", preview_edge)
    return options


def _set(name: str, message: Any, field: str, value: Any) -> None:
    try:
        setattr(message, field, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {value!r} can't be sent: {error}") from None


def as_request(request: ImageRequest | str, fields: RequestFields) -> ImageRequest:
    """A prompt and keywords, or an ImageRequest with some of its fields replaced."""
    if isinstance(request, str):
        return ImageRequest(request, **fields)
    return dataclasses.replace(request, **fields) if fields else request
