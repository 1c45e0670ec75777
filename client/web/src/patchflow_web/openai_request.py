"""The body of POST /v1/images/generations, and the request that it makes."""

from __future__ import annotations

import math
import re
from typing import Literal

from patchflow_client import Format, ImageRequest, Model
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_EDGE_OF_PREVIEWS = 4096
_FORMATS = {"png": Format.PNG, "jpeg": Format.JPEG, "webp": Format.WEBP}
# Steps, as a part of the model's default.
_QUALITIES = {"low": 0.5, "high": 2.0, "hd": 2.0}


class ImagesRequest(BaseModel):
    """OpenAI's parameters that have a meaning here, and some of ours. Others are refused, not passed over."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    model: str | None = None
    n: int | None = Field(None, ge=1, le=10)
    size: str | None = None
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int | None = Field(None, ge=0, le=100)
    response_format: Literal["b64_json", "url"] = "b64_json"
    background: Literal["auto", "opaque"] | None = None  # No model here draws transparency.
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    moderation: Literal["auto", "low"] | None = None  # Nothing is moderated.
    user: str | None = None  # Theirs, of no use here.
    safety_identifier: str | None = None
    # Ours.
    negative_prompt: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    scheduler: str | None = None

    @field_validator("output_format", "response_format", "stream", "partial_images", mode="before")
    @classmethod
    def _default_for_null(cls, value, info):
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("size")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None and value != "auto" and not re.fullmatch(r"\d{1,5}x\d{1,5}", value):
            raise ValueError("neither 'auto' nor WIDTHxHEIGHT")
        return value

    @model_validator(mode="after")
    def _together(self) -> ImagesRequest:
        if self.partial_images and not self.stream:
            raise ValueError("'partial_images' needs 'stream'")
        if self.stream and self.response_format == "url":
            raise ValueError("'response_format' of a stream is 'b64_json'")
        return self

    def answered_quality(self) -> str:
        return {"low": "low", "high": "high", "hd": "high"}.get(self.quality or "", "medium")

    def to_request(self, model: Model, request_id: str) -> ImageRequest:
        """What Patchflow is asked. `model` is the one that will draw."""
        width, height = None, None
        if self.size not in (None, "auto"):
            width, height = map(int, self.size.split("x"))
        steps = self.steps
        if steps is None and self.quality in _QUALITIES:
            wanted = math.ceil(model.defaults.steps * _QUALITIES[self.quality])
            steps = max(1, min(wanted, model.limits.max_steps))
        taken = model.defaults.steps if steps is None else steps
        # `partial_images` of them, evenly, and none for the last step, whose image follows at once.
        every = max(1, math.ceil(taken / (self.partial_images + 1))) if self.partial_images else 0
        edge = max(width or model.defaults.width, height or model.defaults.height)
        # OpenAI's 0 is the smallest file.
        quality = None if self.output_compression is None else max(1, self.output_compression)
        return ImageRequest(
            self.prompt,
            negative=self.negative_prompt,
            model=model.name,
            width=width,
            height=height,
            count=self.n,
            steps=steps,
            guidance=self.guidance,
            seed=self.seed,
            scheduler=self.scheduler,
            format=_FORMATS[self.output_format],
            quality=quality,
            embed_metadata=True,
            request_id=request_id,
            preview_every=every,
            preview_edge=min(edge, MAX_EDGE_OF_PREVIEWS) if every else 0,
        )
