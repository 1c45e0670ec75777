"""OpenAI's images endpoint: POST /v1/images/generations, with `stream` and `partial_images`, and /v1/models.

Beyond OpenAI's parameters it takes negative_prompt, steps, guidance, seed and scheduler (extra_body of their clients),
and answers what was used under "patchflow". Tokens are not counted: usage is 0. Nothing is moderated.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from patchflow_client import AsyncClient, AsyncGeneration, Completed, Image, Model, PatchflowError, Preview, Result
from pydantic import ValidationError

from .http import BadBody, event_bytes, event_stream, read_json, unless_gone
from .openai_errors import ApiError, api_error_of
from .openai_request import ImagesRequest

router = APIRouter(prefix="/v1")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NO_TOKENS = {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0}
_USAGE = {**_NO_TOKENS, "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}}


def add_error_handlers(app: FastAPI) -> None:
    async def answer(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return JSONResponse(error.body(), error.status, headers=error.headers())

    app.add_exception_handler(ApiError, answer)


def caller_token(request: Request) -> str | None:
    """The caller's token if those are forwarded; None for this program's own."""
    if not request.app.state.settings.forward_tokens:
        return None
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ApiError(401, "An API key is needed: Authorization: Bearer KEY", code="invalid_api_key")
    return token.strip()


async def parse(request: Request) -> ImagesRequest:
    try:
        return ImagesRequest.model_validate(await read_json(request))
    except BadBody as error:
        raise ApiError(error.status, str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter") from None
        message = f"Invalid value for '{param}': {first['msg']}" if param else first["msg"]
        raise ApiError(400, message, param=param, code="invalid_value") from None


async def model_of(client: AsyncClient, name: str | None, token: str | None) -> Model:
    """The model that will draw: its default steps and size decide on quality and partial images."""
    try:
        models = await client.models(timeout=10, token=token)
    except PatchflowError as error:
        raise api_error_of(error) from None
    named = [model for model in models if not name or model.name == name]
    if len(named) == 1:
        return named[0]
    names = ", ".join(model.name for model in models) or "none"
    if name:
        message = f"The model '{name}' does not exist. This server has: {names}."
        raise ApiError(404, message, param="model", code="model_not_found")
    message = f"The server has several models or none; name one of: {names}."
    raise ApiError(400, message, param="model", code="missing_required_parameter")


@dataclasses.dataclass
class Answer:
    """What is the same in every part of an answer."""

    asked: ImagesRequest
    generation: AsyncGeneration

    @property
    def common(self) -> dict[str, Any]:
        accepted = self.generation.accepted
        assert accepted is not None
        size = f"{accepted.parameters.width}x{accepted.parameters.height}"
        quality = self.asked.answered_quality()
        return {"size": size, "quality": quality, "background": "opaque", "output_format": self.asked.output_format}

    def facts(self, completed: Completed | None = None) -> dict[str, Any]:
        """What was used, beyond OpenAI's API."""
        accepted = self.generation.accepted
        assert accepted is not None
        parameters = dataclasses.asdict(accepted.parameters)
        parameters.pop("format")
        timings = completed.timings if completed else None
        return {
            "request_id": accepted.request_id,
            "plan_digest": accepted.plan_digest,
            "parameters": parameters,
            "timings": timings,
        }


def whole_answer(request: Request, answer: Answer, result: Result) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for image in result.images:
        if answer.asked.response_format == "url":
            url = request.url_for("image_file", request_id=result.request_id, index=str(image.index))
            data.append({"url": str(url)})
        else:
            data.append({"b64_json": base64.b64encode(image.data).decode()})
    facts = answer.facts(result.completed)
    return {"created": int(time.time()), **answer.common, "data": data, "usage": _USAGE, "patchflow": facts}


def named(kind: str, answer: Answer, data: bytes, **more: Any) -> bytes:
    """A streamed event, image_generation.KIND."""
    name = f"image_generation.{kind}"
    content = {"type": name, "b64_json": base64.b64encode(data).decode(), "created_at": int(time.time())}
    return event_bytes(name, {**content, **answer.common, **more})


async def streamed(answer: Answer, first: Any) -> AsyncIterator[bytes]:
    """Partial images as they come, and each whole one; an "error" in the end if it comes to that."""
    partials: dict[int, int] = {}
    async with answer.generation as generation:
        try:
            event = first
            while True:
                if isinstance(event, Preview) and partials.get(event.index, 0) < answer.asked.partial_images:
                    number = partials[event.index] = partials.get(event.index, 0) + 1
                    yield named("partial_image", answer, event.data, partial_image_index=number - 1)
                elif isinstance(event, Image):
                    facts = {**answer.facts(), "index": event.index, "seed": event.seed}
                    yield named("completed", answer, event.data, usage=_USAGE, patchflow=facts)
                event = await anext(generation)
        except StopAsyncIteration:
            return
        except PatchflowError as error:
            yield event_bytes("error", {"type": "error", **api_error_of(error).body()})


@router.post("/images/generations")
async def generate(request: Request) -> Response:
    """OpenAI's createImage. An Idempotency-Key becomes the request_id."""
    asked = await parse(request)
    token = caller_token(request)
    client: AsyncClient = request.app.state.impatient
    model = await model_of(client, asked.model, token)
    key = request.headers.get("idempotency-key", "")
    if key and not _REQUEST_ID.fullmatch(key):
        raise ApiError(400, "Idempotency-Key is not 1 to 64 of [A-Za-z0-9._-]", param="Idempotency-Key")
    if asked.response_format == "url" and request.app.state.settings.forward_tokens:
        raise ApiError(400, "Images are not given by URL where callers have tokens of their own; "
                       "use 'b64_json'", param="response_format")
    try:
        generation = client.stream(asked.to_request(model, key), token=token)
    except ValueError as error:
        raise ApiError(400, str(error), param=str(error).partition(":")[0]) from None
    answer = Answer(asked, generation)
    try:
        if not asked.stream:
            return JSONResponse(whole_answer(request, answer, await unless_gone(request, generation.result())))
        # Refusals come before the stream begins, with a status of their own.
        return event_stream(streamed(answer, await anext(generation)))
    except PatchflowError as error:
        raise api_error_of(error) from None


@router.get("/images/generations/{request_id}/{index}", name="image_file")
async def image_file(request: Request, request_id: str, index: int) -> Response:
    """The file of an image given by URL, for as long as the server keeps it."""
    client: AsyncClient = request.app.state.impatient
    token = caller_token(request)
    try:
        result = await unless_gone(request, client.fetch(request_id, token=token).result())
    except PatchflowError as error:
        raise api_error_of(error) from None
    if not 0 <= index < len(result.images):
        raise ApiError(404, f"Image {index} is none of the {len(result.images)} of this generation", param="index")
    image = result.images[index]
    return Response(image.data, media_type=image.format.mime_type, headers={"cache-control": "private, max-age=300"})


def _model_json(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "patchflow"}


@router.get("/models")
async def models(request: Request) -> Response:
    """OpenAI's listModels."""
    try:
        found = await request.app.state.impatient.models(timeout=10, token=caller_token(request))
    except PatchflowError as error:
        raise api_error_of(error) from None
    return JSONResponse({"object": "list", "data": [_model_json(model) for model in found]})


@router.get("/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """OpenAI's retrieveModel."""
    return JSONResponse(_model_json(await model_of(request.app.state.impatient, name, caller_token(request))))
