"""Errors in the words of people who draw, not of those who run the server."""

from __future__ import annotations

from typing import Any

from patchflow_client import PatchflowError

_TITLES = {
    "INVALID_REQUEST": "Some settings can't be used",
    "LIMIT_EXCEEDED": "That is more than this server allows",
    "MALFORMED_REQUEST": "The request could not be read",
    "MODEL_NOT_FOUND": "There is no such model here",
    "GENERATION_NOT_FOUND": "This picture is no longer kept",
    "REQUEST_ID_CONFLICT": "This request was made before, with other settings",
    "UNAUTHENTICATED": "The server wants a token that this page does not have",
    "PERMISSION_DENIED": "This page may not do that",
    "QUEUE_FULL": "The queue is full",
    "RATE_LIMITED": "Too many requests at once",
    "GPU_MEMORY_BUDGET": "There is not enough memory for this size now",
    "GPU_OUT_OF_MEMORY": "The server ran out of memory",
    "STARTING": "The server is still starting",
    "DRAINING": "The server is being restarted",
    "ENGINE_RECOVERING": "The engine is recovering from a fault",
    "ENGINE_FAILED": "The engine failed",
    "PLAN_CHANGED": "The server changed while this was drawn",
    "STORE_FAILED": "The server could not keep this request",
    "AUDIT_UNAVAILABLE": "The server can't keep its records now",
    "DEADLINE_UNMEETABLE": "This would take longer than allowed",
    "DEADLINE_IN_QUEUE": "It waited too long in the queue",
    "DEADLINE_RUNNING": "It took longer than allowed",
    "CLIENT_CANCELLED": "Cancelled",
    "CANCELLED_BY_REQUEST": "Cancelled",
    "NON_FINITE_OUTPUT": "The drawing went wrong",
    "POISON_REQUEST": "The engine fails at this request",
}

_TITLES_OF_CODES = {
    "UNAVAILABLE": "The server can't be reached",
    "DEADLINE_EXCEEDED": "It took longer than allowed",
    "CANCELLED": "Cancelled",
    "DATA_LOSS": "What came back was damaged",
}

# The page's name of each of the API's fields.
_FIELDS = {
    "prompt.text": "prompt",
    "prompt.negative_text": "negative",
    "image.width": "width",
    "image.height": "height",
    "image.count": "count",
    "sampling.steps": "steps",
    "sampling.guidance_scale": "guidance",
    "sampling.seed": "seed",
    "sampling.scheduler": "scheduler",
    "output.format": "format",
    "output.quality": "quality",
    "model": "model",
}


def error_of(error: PatchflowError) -> dict[str, Any]:
    """The page's "error" event."""
    title = _TITLES.get(error.reason) or _TITLES_OF_CODES.get(error.code.name) or "Something went wrong"
    fields = [{"field": _FIELDS.get(each.field, each.field), "text": each.description} for each in error.violations]
    # What the fields say need not be said twice; of a transport's error, the code says enough.
    text = "" if fields or not error.reason else error.message
    return {
        "title": title,
        "text": text,
        "fields": fields,
        "code": error.code.name,
        "reason": error.reason,
        "retry_after": error.retry_after,
        "cancelled": error.code.name == "CANCELLED",
    }


def refusal(title: str, field: str = "", text: str = "") -> dict[str, Any]:
    """An "error" event of the page's own."""
    fields = [{"field": field, "text": text}] if field else []
    return {
        "title": title,
        "text": "" if field else text,
        "fields": fields,
        "code": "INVALID_ARGUMENT",
        "reason": "INVALID_REQUEST",
        "retry_after": None,
        "cancelled": False,
    }
