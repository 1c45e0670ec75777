"""When a call is made again."""

from __future__ import annotations

import dataclasses
import random

import grpc

from .errors import PatchflowError


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often and after how long. The server's RetryInfo goes before `first_delay` and `longest_delay`.

    Made again is what the API says may be: UNAVAILABLE, RESOURCE_EXHAUSTED with a RetryInfo (unless `exhausted` is
    False), and an INTERNAL or UNKNOWN without a reason, which was the transport's, not the server's.
    """

    retries: int = 5
    first_delay: float = 0.25  # Seconds; doubles with each retry, less up to a quarter by chance.
    longest_delay: float = 8.0
    exhausted: bool = True

    def __post_init__(self):
        if self.retries < 0:
            raise ValueError(f"retries: {self.retries} is negative")
        if not 0 <= self.first_delay <= self.longest_delay:
            raise ValueError(f"first_delay: {self.first_delay} is not in 0 to longest_delay, {self.longest_delay}")

    def allows(self, error: PatchflowError) -> bool:
        """Whether this error may be followed by a retry at all."""
        if error.code == grpc.StatusCode.UNAVAILABLE:
            return True
        if error.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.exhausted and error.retry_after is not None
        return error.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and not error.reason


NO_RETRIES = RetryPolicy(retries=0)


class Retrier:
    """Counts the retries of one call. Times are those of time.monotonic()."""

    def __init__(self, policy: RetryPolicy, deadline: float):
        self._policy = policy
        self._deadline = deadline
        self.retries = 0

    def next_delay(self, error: PatchflowError, now: float) -> float | None:
        """Seconds to wait; None if the error is final, no retry is left, or the deadline would pass meanwhile."""
        if not self._policy.allows(error) or self.retries >= self._policy.retries:
            return None
        delay = error.retry_after
        if delay is None:
            delay = min(self._policy.first_delay * 2**self.retries, self._policy.longest_delay)
            delay *= random.uniform(0.75, 1.0)
        if now + delay >= self._deadline:
            return None
        self.retries += 1
        return delay
