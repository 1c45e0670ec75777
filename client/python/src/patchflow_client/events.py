"""What a generation brings, in the API's order."""

from __future__ import annotations

import dataclasses
import pathlib

from google.protobuf import duration_pb2
from patchflow.v1 import image_generation_pb2 as pb

from .errors import PatchflowError
from .request import Format, State


def seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos * 1e-9


def _optional_seconds(message, field: str) -> float | None:
    return seconds(getattr(message, field)) if message.HasField(field) else None


@dataclasses.dataclass(frozen=True)
class Parameters:
    """All parameters after defaults."""

    width: int
    height: int
    count: int
    steps: int
    guidance: float
    seed: int  # Of the first image.
    scheduler: str
    format: Format
    quality: int
    model: str
    model_digest: str
    dtype: str
    layout: str

    @classmethod
    def of(cls, effective: pb.EffectiveParams) -> Parameters:
        return cls(
            width=effective.width,
            height=effective.height,
            count=effective.count,
            steps=effective.steps,
            guidance=effective.guidance_scale,
            seed=effective.seed,
            scheduler=effective.scheduler,
            format=Format(effective.format),
            quality=effective.quality,
            model=effective.model,
            model_digest=effective.model_digest,
            dtype=effective.dtype,
            layout=effective.layout,
        )


@dataclasses.dataclass(frozen=True)
class Cost:
    """Size of a request."""

    steps: int  # Times images.
    pixels: int  # Times images.
    gpu_time: float | None  # Seconds over all ranks; None while nothing is known of this shape.


@dataclasses.dataclass(frozen=True)
class Accepted:
    """The request was admitted. Comes once, also when the stream had to be opened again."""

    request_id: str
    queue_position: int  # 0 runs next.
    estimated_wait: float | None  # Seconds; None while nothing is known of this shape.
    estimated_run: float | None
    parameters: Parameters
    plan_digest: str
    server_instance: str
    cost: Cost

    @classmethod
    def of(cls, request_id: str, accepted: pb.Accepted) -> Accepted:
        cost = accepted.cost
        return cls(
            request_id=request_id,
            queue_position=accepted.queue_position,
            estimated_wait=_optional_seconds(accepted, "estimated_wait"),
            estimated_run=_optional_seconds(accepted, "estimated_run"),
            parameters=Parameters.of(accepted.effective),
            plan_digest=accepted.plan_digest,
            server_instance=accepted.server_instance,
            cost=Cost(cost.steps, cost.pixels, _optional_seconds(cost, "gpu_time")),
        )


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where the generation stands. For a slow reader the newest replaces those not yet sent."""

    state: State  # QUEUED or RUNNING.
    step: int
    total_steps: int
    elapsed: float  # Seconds since admission.
    eta: float | None  # Seconds until all images are done; None while nothing is known.
    attempt: int  # Rises when the work begins again after a worker was lost.
    images_done: int
    queue_position: int

    @classmethod
    def of(cls, progress: pb.Progress) -> Progress:
        return cls(
            state=State(progress.state),
            step=progress.step,
            total_steps=progress.total_steps,
            elapsed=seconds(progress.elapsed),
            eta=_optional_seconds(progress, "eta"),
            attempt=progress.attempt,
            images_done=progress.images_done,
            queue_position=progress.queue_position,
        )


@dataclasses.dataclass(frozen=True)
class Preview:
    """A small picture of the present latents."""

    index: int  # Of the image.
    step: int
    format: Format
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Image:
    """A whole image, whose hash has been checked."""

    index: int
    format: Format
    width: int
    height: int
    seed: int
    sha256: bytes = dataclasses.field(repr=False)
    data: bytes = dataclasses.field(repr=False)

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the file; returns its path."""
        path = pathlib.Path(path)
        path.write_bytes(self.data)
        return path


@dataclasses.dataclass(frozen=True)
class Completed:
    """All images have come."""

    timings: dict[str, float]  # Seconds by stage: "queue", "text_encode", "denoise", ... "total".
    peak_gpu_memory_bytes: int
    server_version: str
    attempts: int

    @classmethod
    def of(cls, completed: pb.Completed) -> Completed:
        timings = {timing.stage: seconds(timing.duration) for timing in completed.timings}
        return cls(timings, completed.peak_gpu_memory_bytes, completed.server_version, completed.attempts)


@dataclasses.dataclass(frozen=True)
class Retrying:
    """The call broke or was put off; it is made again after `delay` seconds."""

    error: PatchflowError
    delay: float
    retry: int  # From 1.


Event = Accepted | Progress | Preview | Image | Completed | Retrying


@dataclasses.dataclass(frozen=True)
class Result:
    """A generation that was followed to its end."""

    accepted: Accepted
    images: tuple[Image, ...]
    completed: Completed
    retries: int

    @property
    def request_id(self) -> str:
        return self.accepted.request_id
