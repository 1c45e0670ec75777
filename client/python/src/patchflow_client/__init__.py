"""A client of Patchflow, a server that makes images from prompts.

    from patchflow_client import Client

    with Client("localhost:50051") as client:
        client.generate("a red star on a blue background", seed=7).images[0].save("star.png")

`Client` blocks, `AsyncClient` awaits; both have the same methods. The generated modules of the API are in
`patchflow.v1`.
"""

from .aio import AsyncClient, AsyncGeneration
from .channel import TLS, token_from_file
from .client import Client, Generation
from .errors import (
    Cancelled,
    Conflict,
    DataLoss,
    DeadlineExceeded,
    Exhausted,
    InternalError,
    InvalidRequest,
    NotFound,
    PatchflowError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Violation,
)
from .events import Accepted, Completed, Cost, Event, Image, Parameters, Preview, Progress, Result, Retrying
from .models import Model, ModelDefaults, ModelLimits, Status
from .request import Format, ImageRequest, OnDisconnect, Priority, State
from .retry import NO_RETRIES, RetryPolicy
from .version import VERSION

__version__ = VERSION

__all__ = [
    "NO_RETRIES",
    "Accepted",
    "AsyncClient",
    "AsyncGeneration",
    "Cancelled",
    "Client",
    "Completed",
    "Conflict",
    "Cost",
    "DataLoss",
    "DeadlineExceeded",
    "Event",
    "Exhausted",
    "Format",
    "Generation",
    "Image",
    "ImageRequest",
    "InternalError",
    "InvalidRequest",
    "Model",
    "ModelDefaults",
    "ModelLimits",
    "NotFound",
    "OnDisconnect",
    "Parameters",
    "PatchflowError",
    "PermissionDenied",
    "Preview",
    "Priority",
    "Progress",
    "Result",
    "Retrying",
    "RetryPolicy",
    "State",
    "Status",
    "TLS",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "token_from_file",
]
