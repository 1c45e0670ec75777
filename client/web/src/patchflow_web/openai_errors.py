"""Patchflow's errors as OpenAI's clients know errors."""

from __future__ import annotations

import math
from typing import Any

from patchflow_client import PatchflowError

_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}

_CODES = {
    "UNAUTHENTICATED": "invalid_api_key",
    "MODEL_NOT_FOUND": "model_not_found",
    "QUEUE_FULL": "rate_limit_exceeded",
    "RATE_LIMITED": "rate_limit_exceeded",
}

# OpenAI's name of each of the API's fields.
_PARAMS = {
    "prompt.text": "prompt",
    "prompt.negative_text": "negative_prompt",
    "image.width": "size",
    "image.height": "size",
    "image.count": "n",
    "sampling.steps": "steps",
    "sampling.guidance_scale": "guidance",
    "sampling.seed": "seed",
    "sampling.scheduler": "scheduler",
    "output.format": "output_format",
    "output.quality": "output_compression",
    "model": "model",
}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        if self.retry_after is None:
            return {}
        return {
            "retry-after": str(math.ceil(self.retry_after)),
            "retry-after-ms": str(math.ceil(self.retry_after * 1000)),
        }


def api_error_of(error: PatchflowError) -> ApiError:
    """The answer for an error of the server, with its reason as the code where OpenAI has none."""
    status = _STATUSES.get(error.code.name, 500)
    said = [f"{_PARAMS.get(each.field, each.field)}: {each.description}" for each in error.violations]
    return ApiError(
        status,
        "; ".join(said) or error.message or error.code.name,
        param=_PARAMS.get(error.field) if error.field else ("model" if error.reason == "MODEL_NOT_FOUND" else None),
        code=_CODES.get(error.reason) or error.reason.lower() or None,
        retry_after=error.retry_after,
    )
