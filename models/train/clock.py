"""The wall clock: what the time is since the process began, and how far a training loop is."""

import time

PROCESS_STARTED_AT = time.monotonic()  # near enough: this module is loaded first


def log(*words):
    print(f"[{time.monotonic() - PROCESS_STARTED_AT:6.1f}]", *words, flush=True)


class Timetable:
    """Ends a loop at a time, or after a number of steps where that comes first.

    The first steps compile the networks and choose kernels: the schedule starts after them.
    """

    UNTIMED_STEPS = 12
    CHECKPOINT_EVERY_S = 90

    def __init__(self, ends_at, synchronize, max_steps=None):
        """ends_at: of time.monotonic; synchronize: waits for the device."""
        self._ends_at = ends_at
        self._synchronize = synchronize
        self._max_steps = max_steps
        self._checkpoint_at = time.monotonic() + self.CHECKPOINT_EVERY_S
        self._started_at = None
        self.seconds = 0.0  # of the schedule, until now
        self.done = 0  # steps

    def _fraction(self):
        by_steps = 0.0 if self._max_steps is None else self.done / self._max_steps
        if self._started_at is None:
            by_clock = 0.0 if time.monotonic() < self._ends_at else 1.0
        else:
            self.seconds = time.monotonic() - self._started_at
            by_clock = self.seconds / max(self._ends_at - self._started_at, 1e-9)
        return max(by_steps, by_clock)

    def steps(self):
        """Yields (step, fraction of the schedule that is over) until it is over."""
        while (fraction := self._fraction()) < 1:
            yield self.done, fraction
            self.done += 1
            if self.done == self.UNTIMED_STEPS:
                self._synchronize()
                self._started_at = time.monotonic()
                log(f"the first {self.done} steps are done, the schedule starts")
        self._synchronize()

    def checkpoint_due(self):
        """True about every CHECKPOINT_EVERY_S."""
        if time.monotonic() < self._checkpoint_at:
            return False
        self._checkpoint_at = time.monotonic() + self.CHECKPOINT_EVERY_S
        return True
