"""What the server tells of its models and generations."""

from __future__ import annotations

import dataclasses
import datetime

from patchflow.v1 import image_generation_pb2 as pb

from .events import Parameters, Progress
from .request import Format, State


@dataclasses.dataclass(frozen=True)
class ModelDefaults:
    """What fields that are not set take."""

    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str


@dataclasses.dataclass(frozen=True)
class ModelLimits:
    """What fields may hold."""

    min_size: int
    max_size: int
    size_multiple: int
    max_pixels: int
    max_count: int
    max_steps: int
    max_guidance: float
    max_prompt_bytes: int
    max_prompt_tokens: int


@dataclasses.dataclass(frozen=True)
class Model:
    """A model and what may be asked of it."""

    name: str
    ready: bool
    digest: str
    architecture: str
    defaults: ModelDefaults
    limits: ModelLimits
    schedulers: tuple[str, ...]
    formats: tuple[Format, ...]
    layouts: tuple[str, ...]
    dtype: str
    device: str

    @classmethod
    def of(cls, model: pb.Model) -> Model:
        defaults, limits = model.defaults, model.limits
        known = {int(each) for each in Format}
        return cls(
            name=model.name,
            ready=model.ready,
            digest=model.digest,
            architecture=model.architecture,
            defaults=ModelDefaults(
                defaults.width, defaults.height, defaults.steps, defaults.guidance_scale, defaults.scheduler
            ),
            limits=ModelLimits(
                limits.min_size,
                limits.max_size,
                limits.size_multiple,
                limits.max_pixels,
                limits.max_count,
                limits.max_steps,
                limits.max_guidance_scale,
                limits.max_prompt_bytes,
                limits.max_prompt_tokens,
            ),
            schedulers=tuple(model.schedulers),
            formats=tuple(Format(each) for each in model.formats if each in known),
            layouts=tuple(model.layouts),
            dtype=model.dtype,
            device=model.device,
        )


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a generation."""

    request_id: str
    state: State
    progress: Progress
    parameters: Parameters
    create_time: datetime.datetime
    end_time: datetime.datetime | None
    error_reason: str
    error_message: str

    @classmethod
    def of(cls, response: pb.GetGenerationResponse) -> Status:
        end = response.end_time.ToDatetime(datetime.timezone.utc) if response.HasField("end_time") else None
        return cls(
            request_id=response.request_id,
            state=State(response.state),
            progress=Progress.of(response.progress),
            parameters=Parameters.of(response.effective),
            create_time=response.create_time.ToDatetime(datetime.timezone.utc),
            end_time=end,
            error_reason=response.error_reason,
            error_message=response.error_message,
        )
