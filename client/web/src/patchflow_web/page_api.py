"""What the page calls: models, generations as streams of events, cancellation."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from patchflow_client import (
    Accepted,
    AsyncClient,
    AsyncGeneration,
    Completed,
    Event,
    Format,
    Image,
    ImageRequest,
    Model,
    OnDisconnect,
    PatchflowError,
    Preview,
    Progress,
    Retrying,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from .http import BadBody, event_bytes, event_stream, read_json
from .wording import error_of, refusal

router = APIRouter(prefix="/api")

PREVIEW_EDGE = 512
_FORMATS = {"png": Format.PNG, "jpeg": Format.JPEG, "webp": Format.WEBP}


class Draw(BaseModel):
    """The form. What is None is the model's default; ranges are the server's to check."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    negative: str | None = None
    model: str = ""
    width: int | None = None
    height: int | None = None
    count: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    scheduler: str | None = None
    format: Literal["png", "jpeg", "webp"] = "png"
    request_id: str = ""
    previews: int = 8  # About so many an image.
    keep: bool = False  # Goes on when the page is closed.

    def to_request(self, steps: int) -> ImageRequest:
        return ImageRequest(
            self.prompt,
            negative=self.negative,
            model=self.model,
            width=self.width,
            height=self.height,
            count=self.count,
            steps=self.steps,
            guidance=self.guidance,
            seed=self.seed,
            scheduler=self.scheduler,
            format=_FORMATS[self.format],
            embed_metadata=True,
            request_id=self.request_id,
            preview_every=max(1, steps // self.previews) if self.previews > 0 else 0,
            preview_edge=PREVIEW_EDGE,
            on_disconnect=OnDisconnect.DETACH if self.keep else OnDisconnect.CANCEL,
        )


def model_json(model: Model) -> dict[str, Any]:
    answer = dataclasses.asdict(model)
    answer["formats"] = [each.name.lower() for each in model.formats]
    return answer


def data_url(format: Format, data: bytes) -> str:
    return f"data:{format.mime_type};base64,{base64.b64encode(data).decode()}"


def event_json(event: Event) -> tuple[str, dict[str, Any]]:
    """An event's name and content for the page."""
    match event:
        case Accepted():
            answer = dataclasses.asdict(event)
            answer["parameters"]["format"] = event.parameters.format.name.lower()
            return "accepted", answer
        case Progress():
            return "progress", {**dataclasses.asdict(event), "state": event.state.name.lower()}
        case Preview():
            return "preview", {"index": event.index, "step": event.step, "url": data_url(event.format, event.data)}
        case Image():
            facts = {"index": event.index, "seed": event.seed, "width": event.width, "height": event.height}
            name = f"patchflow-{event.seed}.{event.format.extension}"
            more = {"bytes": len(event.data), "sha256": event.sha256.hex(), "file": name}
            return "image", {**facts, **more, "url": data_url(event.format, event.data)}
        case Completed():
            return "completed", dataclasses.asdict(event)
        case Retrying():
            return "retrying", {"delay": event.delay, "retry": event.retry, "title": error_of(event.error)["title"]}
    raise TypeError(type(event))


async def page_events(generation: AsyncGeneration) -> AsyncIterator[bytes]:
    """All events, and an "error" in the end if it comes to that."""
    async with generation:
        try:
            async for event in generation:
                yield event_bytes(*event_json(event))
        except PatchflowError as error:
            yield event_bytes("error", error_of(error))


async def _refused(answer: dict[str, Any]) -> AsyncIterator[bytes]:
    yield event_bytes("error", answer)


async def _default_steps(client: AsyncClient, name: str) -> int:
    """For the pace of previews; the server says what is wrong with the model."""
    models = [model for model in await client.models() if not name or model.name == name]
    return models[0].defaults.steps if models else 1


@router.get("/models")
async def models(request: Request) -> Response:
    """All models; or 503 with the error in words."""
    try:
        found = await request.app.state.impatient.models(timeout=10)
    except PatchflowError as error:
        return JSONResponse(error_of(error), 503)
    return JSONResponse({"models": [model_json(model) for model in found]})


@router.post("/generations")
async def draw(request: Request) -> Response:
    """Draws; answers with a stream of events, refusals too."""
    client: AsyncClient = request.app.state.client
    try:
        body = Draw.model_validate(await read_json(request))
        steps = body.steps if body.steps is not None else await _default_steps(client, body.model)
        generation = client.stream(body.to_request(steps))
    except ValidationError as error:
        first = error.errors()[0]
        return event_stream(_refused(refusal("Some settings can't be used", str(first["loc"][0]), first["msg"])))
    except BadBody as error:
        return JSONResponse(refusal("The request could not be read", text=str(error)), error.status)
    except ValueError as error:
        field, _, text = str(error).partition(": ")
        return event_stream(_refused(refusal("Some settings can't be used", field, text)))
    except PatchflowError as error:
        return event_stream(_refused(error_of(error)))
    return event_stream(page_events(generation))


@router.get("/generations/{request_id}")
async def follow(request: Request, request_id: str) -> Response:
    """The events of a generation that was begun before."""
    client: AsyncClient = request.app.state.client
    return event_stream(page_events(client.fetch(request_id, preview_every=1, preview_edge=PREVIEW_EDGE)))


@router.post("/generations/{request_id}/cancel")
async def cancel(request: Request, request_id: str) -> Response:
    """Stops a generation; answers its state."""
    try:
        await read_json(request)
        state = await request.app.state.client.cancel(request_id, timeout=10)
    except BadBody as error:
        return JSONResponse(refusal("The request could not be read", text=str(error)), error.status)
    except PatchflowError as error:
        return JSONResponse(error_of(error), 502)
    return JSONResponse({"state": state.name.lower()})
