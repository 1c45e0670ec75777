"""A generation over as many streams as it takes: what to call next, and what of it is new. Does no calls itself."""

from __future__ import annotations

import dataclasses
import time

import grpc
from patchflow.v1 import image_generation_pb2 as pb

from .checker import StreamChecker
from .errors import DataLoss, PatchflowError, error_of
from .events import Accepted, Completed, Event, Image, Retrying
from .retry import Retrier, RetryPolicy


@dataclasses.dataclass(frozen=True)
class Call:
    """A stream to open."""

    request: pb.GenerateImagesRequest | pb.FetchGenerationRequest
    timeout: float  # Seconds.

    @property
    def is_fetch(self) -> bool:
        return isinstance(self.request, pb.FetchGenerationRequest)


class Session:
    """Begins with `first`, and after a break goes on with the same request_id.

    A detached generation that was accepted is fetched, so that it is found also where the server began anew; any other
    is asked for again, which joins or replays it. If a fetched one is gone, it too is asked for again.
    """

    def __init__(
        self, first: pb.GenerateImagesRequest | pb.FetchGenerationRequest, policy: RetryPolicy, timeout: float
    ):
        self._first = first
        self._deadline = time.monotonic() + timeout
        self._retrier = Retrier(policy, self._deadline)
        self._generate = first if isinstance(first, pb.GenerateImagesRequest) else None
        self._fetching = self._generate is None
        self._checker = self._new_checker()
        self._hashes: list[bytes] = []  # Of the images handed out.
        self.request_id: str = first.request_id
        self.accepted: Accepted | None = None
        self.completed: Completed | None = None

    @property
    def retries(self) -> int:
        return self._retrier.retries

    def next_call(self) -> Call:
        """The stream to open now."""
        self._checker = self._new_checker()
        timeout = max(0.001, self._deadline - time.monotonic())
        if self._fetching and self._generate is not None:
            return Call(pb.FetchGenerationRequest(request_id=self.request_id, stream=self._generate.stream), timeout)
        return Call(self._first, timeout)

    def take(self, message: pb.GenerateImagesResponse | pb.FetchGenerationResponse) -> Event | None:
        """The event of a message, unless an earlier stream brought it. DataLoss if an image changed in between."""
        if isinstance(message, pb.FetchGenerationResponse):
            message = message.message
        event = self._checker.take(message)
        if isinstance(event, Accepted):
            again, self.accepted = self.accepted is not None, event
            return None if again else event
        if isinstance(event, Image):
            return self._new_image(event)
        if isinstance(event, Completed):
            self.completed = event
        return event

    def finish(self) -> None:
        """The stream ended with OK."""
        self._checker.finish()

    def failed(self, error: PatchflowError) -> Retrying:
        """How it goes on after an error; raises the error if it is final."""
        gone = self._fetching and self._generate is not None and error.reason == "GENERATION_NOT_FOUND"
        if gone:
            error = error_of(grpc.StatusCode.UNAVAILABLE, error.message, reason=error.reason, retry_after=0.0)
        # Another plan would make other bytes than those handed out.
        if error.reason == "PLAN_CHANGED" and self._hashes:
            raise error
        delay = self._retrier.next_delay(error, time.monotonic())
        if delay is None:
            raise error
        detached = self._generate is not None and (
            self._generate.scheduling.on_disconnect == pb.DISCONNECT_POLICY_DETACH
        )
        self._fetching = self._generate is None or (detached and self.accepted is not None and not gone)
        return Retrying(error, delay, self._retrier.retries)

    def _new_checker(self) -> StreamChecker:
        return StreamChecker(self._first.request_id, images=not (self._generate and self._generate.validate_only))

    def _new_image(self, image: Image) -> Image | None:
        if image.index >= len(self._hashes):
            self._hashes.append(image.sha256)
            return image
        if self._hashes[image.index] != image.sha256:
            raise DataLoss(
                grpc.StatusCode.DATA_LOSS, f"image {image.index} came again with other bytes after a retry"
            )
        return None
