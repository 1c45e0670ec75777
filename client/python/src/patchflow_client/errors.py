"""Errors of the server as exceptions: code, reason, wrong fields, and when to come back."""

from __future__ import annotations

import dataclasses

import grpc
from google.protobuf import message as protobuf_message
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


@dataclasses.dataclass(frozen=True)
class Violation:
    """A field of the request and what is wrong with it."""

    field: str  # As in the API, such as "sampling.steps".
    description: str


class PatchflowError(Exception):
    """Any error of a call. A subclass for each status code that the API uses."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        metadata: dict[str, str] | None = None,
        resource: str = "",
    ):
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason  # ErrorInfo's, such as "QUEUE_FULL"; empty if the error is the transport's.
        self.violations = violations
        self.retry_after = retry_after  # Seconds (RetryInfo); None if the server named no time.
        self.metadata = metadata or {}  # ErrorInfo's.
        self.resource = resource  # What was not found.

    @property
    def field(self) -> str:
        """The first wrong field; empty if there is none."""
        return self.violations[0].field if self.violations else ""

    def __str__(self) -> str:
        lines = [f"{self.code.name}{f' ({self.reason})' if self.reason else ''}: {self.message}"]
        lines += [f"  {violation.field}: {violation.description}" for violation in self.violations]
        if self.retry_after is not None:
            lines.append(f"  try again in {self.retry_after:.3g} s")
        return "\n".join(lines)


class InvalidRequest(PatchflowError):
    """INVALID_ARGUMENT: wrong fields, all of them in `violations`."""


class Unauthenticated(PatchflowError):
    """UNAUTHENTICATED: no token, or a wrong one."""


class PermissionDenied(PatchflowError):
    """PERMISSION_DENIED: the token may not do this."""


class NotFound(PatchflowError):
    """NOT_FOUND: no such model or generation."""


class Conflict(PatchflowError):
    """ALREADY_EXISTS: the request_id was used for something else."""


class Exhausted(PatchflowError):
    """RESOURCE_EXHAUSTED: queue, rate or memory; `retry_after` says when to come back."""


class Unavailable(PatchflowError):
    """UNAVAILABLE: the server or its engine is away for a while."""


class DeadlineExceeded(PatchflowError):
    """DEADLINE_EXCEEDED: there was not, or would not have been, enough time."""


class Cancelled(PatchflowError):
    """CANCELLED: by this client or by another one."""


class InternalError(PatchflowError):
    """INTERNAL or UNKNOWN: a fault of the server or on the way to it."""


class DataLoss(PatchflowError):
    """DATA_LOSS: what came breaks the rules of the stream, or bytes are not those that were announced."""


_CLASSES: dict[grpc.StatusCode, type[PatchflowError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}


def error_of(code: grpc.StatusCode, message: str, **details) -> PatchflowError:
    """The exception for a code."""
    return _CLASSES.get(code, PatchflowError)(code, message, **details)


def _details_of(error: grpc.RpcError) -> list:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except protobuf_message.DecodeError:
                return []
    return []


def error_from_rpc(error: grpc.RpcError) -> PatchflowError:
    """The exception for an error of grpc or grpc.aio. Details that can't be read are left out."""
    found: dict = {}
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, resource = error_details_pb2.RetryInfo(), error_details_pb2.ResourceInfo()
    for detail in _details_of(error):
        if detail.Unpack(info):
            found.update(reason=info.reason, metadata=dict(info.metadata))
        elif detail.Unpack(bad):
            found["violations"] = tuple(Violation(each.field, each.description) for each in bad.field_violations)
        elif detail.Unpack(retry):
            found["retry_after"] = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9)
        elif detail.Unpack(resource):
            found["resource"] = resource.resource_name
    return error_of(error.code(), error.details() or "", **found)
