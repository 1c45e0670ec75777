"""How soon a real worker stops what is cancelled: with the step in which the cancellation comes, or with the tile of decoding.

A worker notes when its ranks have ended a job ("job ended" in the log), so that neither the next request nor the front end
is in these times. Steps are so long that one can be told from two, by the time and by the work: CPU time of the worker, which
other work of the machine hardly changes.
"""

import datetime
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import grpc

from bench.load.fake_server import Beside, FakeServer, MeasuredServer, harness

EDGE_PX = 768  # A step takes half a second and more on two cores.
STEPS = 4
MIN_STEP_S = 0.25  # Of shorter ones the slack would be half of one.
RUNNING = 2
SAME_SIGN_S = 0.02  # Two looks at the age of one sign of life differ by less.


def request_of(request_id: str, steps: int, edge_px: int = 0):
    pb, _ = harness.api()
    request = pb.GenerateImagesRequest(request_id=request_id, prompt=pb.Prompt(text=request_id))
    request.sampling.steps, request.sampling.seed = steps, 1
    if edge_px:
        request.image.width = request.image.height = edge_px
    return request


def cancel(server: FakeServer, call, request_id: str) -> float:
    """Seconds from CancelGeneration until the call of that request has ended: with CANCELLED, or before it came."""
    pb, _ = harness.api()
    began = time.monotonic()
    server.stub.CancelGeneration(pb.CancelGenerationRequest(request_id=request_id), timeout=10)
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED, error
    return time.monotonic() - began


def wait_for_step(call, step: int) -> list[float]:
    """Until so many steps are done; when each of them, from none on, was."""
    times = []
    for message in call:
        if message.WhichOneof("event") == "progress" and message.progress.state == RUNNING:
            times += [time.time()] * (message.progress.step + 1 - len(times))
            if message.progress.step >= step:
                return times
    raise AssertionError("the generation ended early")


def decode_span(server: MeasuredServer, request_id: str) -> tuple[float, float]:
    """When rank 0 began and ended decoding, since the epoch."""
    pb, _ = harness.api()
    trace = server.stub.GetGenerationTrace(pb.GetGenerationTraceRequest(request_id=request_id), timeout=10)
    [span] = [span for span in trace.spans if span.name == "decode" and span.row == "rank 0"]
    began = trace.begin_time.ToNanoseconds()
    return (began + span.begin_ns) / 1e9, (began + span.end_ns) / 1e9


def job_end(server: MeasuredServer, request_id: str) -> float | None:
    """When the ranks had ended this job, since the epoch, as the worker logs it; None before."""
    for line in server.log().splitlines():
        if '"job ended"' in line and f'"{request_id}"' in line:
            return datetime.datetime.fromisoformat(json.loads(line)["time"]).timestamp()
    return None


def wait_until(condition: Callable[[], object], timeout_s: float = 120):
    """What the condition returns once it is something."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"nothing after {timeout_s} s"
        time.sleep(0.005)
    return found


def work_s(server: MeasuredServer) -> float:
    """CPU seconds of the only worker, until now."""
    [worker] = server.workers()
    return time.clock_gettime((~worker << 3) | 2)  # As clock_getcpuclockid(3) makes it.


class Mark(NamedTuple):
    """A moment of a job: by the clock, and by the work of its worker until then."""

    time_s: float
    work_s: float

    def since(self, other: "Mark") -> "Mark":
        return Mark(self.time_s - other.time_s, self.work_s - other.work_s)


def now(server: MeasuredServer) -> Mark:
    return Mark(time.time(), work_s(server))


class SignsOfLife(Beside):
    """Rank 0 gives one at each step and tile, and their age is a metric: that of the last one each 50 ms, the least interval
    of heartbeats."""

    def __init__(self, server: MeasuredServer):
        self._server = server
        self.marks: list[Mark] = []
        super().__init__()

    def _run(self):
        while not self._over.is_set():
            began = time.time()
            ages = self._server.metric("patchflow_rank_last_step_age_seconds")
            sign = (began + time.time()) / 2 - ages[0] if ages else 0
            if not self.marks or sign > self.marks[-1].time_s + SAME_SIGN_S:
                self.marks.append(Mark(sign, work_s(self._server)))


def tiles_of(server: MeasuredServer, request_id: str) -> list[tuple[Mark, Mark]]:
    """When each tile of an image was decoded, since the decoding began."""
    with SignsOfLife(server) as signs:
        harness.generate(server, request_of(request_id, 1, EDGE_PX))
        work_at_end_s = work_s(server)
    begin_s, end_s = decode_span(server, request_id)
    marks = [mark for mark in signs.marks if begin_s - SAME_SIGN_S < mark.time_s < end_s]
    marks.append(Mark(end_s, work_at_end_s))
    return [(begin.since(marks[0]), end.since(marks[0])) for begin, end in itertools.pairwise(marks)]


class Undisturbed:
    """How long the steps of one image take, and when the tiles of one are decoded: of three, that which took least."""

    def __init__(self, server: MeasuredServer):
        call = server.stub.GenerateImages(request_of("undisturbed", STEPS, EDGE_PX), timeout=300)
        wait_for_step(call, 0)
        marks = [now(server)]
        for step in range(1, STEPS + 1):
            wait_for_step(call, step)
            marks.append(now(server))
        assert list(call)[-1].HasField("completed")
        steps = [end.since(begin) for begin, end in itertools.pairwise(marks)]
        self.step = Mark(*map(statistics.median, zip(*steps, strict=True)))
        decodes = [tiles_of(server, f"tiles-{number}") for number in range(3)]
        self.tiles = min(decodes, key=lambda tiles: tiles[-1][1].time_s)
        self.decode = self.tiles[-1][1]

    def longest_tile(self, from_work_s: float = 0) -> Mark:
        """Of those that end after so much work of decoding, or a look at the signs of life (two cores for 50 ms) before."""
        tiles = [end.since(begin) for begin, end in self.tiles if end.work_s > from_work_s - 0.1]
        return Mark(*map(max, zip(*tiles, strict=True)))


class CancelledRounds:
    """`late` waits between a cancellation and sending it: for the next step, or as long as the longest tile takes. All waiting
    is for work, so that other work of the machine moves nothing."""

    def __init__(self, server: MeasuredServer, alone: Undisturbed, rounds: int, late: bool):
        self.server, self.alone, self.rounds, self.late = server, alone, rounds, late

    def _work(self, amount_s: float, request_id: str):
        """Waits until the worker has done so much, or ended the job."""
        until_s = work_s(self.server) + amount_s
        wait_until(lambda: work_s(self.server) >= until_s or job_end(self.server, request_id))

    def _stop(self, call, request_id: str, wait: Callable[[], object]) -> dict:
        began = now(self.server)
        if self.late:
            wait()
        cancel(self.server, call, request_id)
        ended_s = wait_until(lambda: job_end(self.server, request_id))
        return {"took_s": ended_s - began.time_s, "work_s": work_s(self.server) - began.work_s}

    def in_step(self, number: int) -> dict:
        """Cancellations are spread evenly over all steps, and so over each one."""
        at = (number + 0.5) / self.rounds * STEPS
        request_id = f"step-{number}"
        call = self.server.stub.GenerateImages(request_of(request_id, STEPS, EDGE_PX), timeout=300)
        done = wait_for_step(call, int(at))
        step_s = max([self.alone.step.time_s, *(end - begin for begin, end in itertools.pairwise(done))])
        self._work(at % 1 * self.alone.step.work_s, request_id)
        stopped = self._stop(call, request_id, lambda: wait_for_step(call, int(at) + 1))
        return {"at_step": at, "unit_s": step_s, "unit_work_s": self.alone.step.work_s} | stopped

    def in_decode(self, number: int, attempts: int = 5) -> dict:
        """They are spread evenly over all of the decoding. One that came after its end is tried again, sooner."""
        part = (number + 0.5) / self.rounds
        for attempt in range(attempts):
            request_id = f"decode-{number}-{attempt}"
            call = self.server.stub.GenerateImages(request_of(request_id, 1, EDGE_PX), timeout=300)
            wait_for_step(call, 1)
            at_s = part * self.alone.decode.work_s
            self._work(at_s, request_id)
            unit = self.alone.longest_tile(at_s)
            longest_s = self.alone.longest_tile().work_s
            stopped = self._stop(call, request_id, lambda: self._work(longest_s, request_id))
            if stopped["took_s"] > 0:
                return {"at_part": part, "unit_s": unit.time_s, "unit_work_s": unit.work_s} | stopped
            part *= 0.9
        raise AssertionError(f"{attempts} times the image was decoded before it could be cancelled")


def real_worker(rounds: int, late: bool = False) -> dict:
    """Of the bundled model on CPUs. `late` cancels later than it says, as if the worker stopped later."""
    beats = {"supervision": {"heartbeat_interval": "50ms"}}
    with MeasuredServer([harness.Group(harness.BUNDLED)], beats) as server:
        server.wait_ready()
        harness.generate(server, request_of("warm-up", 1, EDGE_PX))
        alone = Undisturbed(server)
        cancelled = CancelledRounds(server, alone, rounds, late)
        return {
            "late": late,
            "edge_px": EDGE_PX,
            "step": alone.step._asdict(),
            "decode": alone.decode._asdict(),
            "longest_tile": alone.longest_tile()._asdict(),
            "longest_tile_of_second_half": alone.longest_tile(alone.decode.work_s / 2)._asdict(),
            "in_steps": [cancelled.in_step(number) for number in range(rounds)],
            "in_decode": [cancelled.in_decode(number) for number in range(rounds)],
        }


def allowed_s(unit_s: float) -> float:
    """One step or tile; 40 % (less than half a step) or 0.1 s are for a machine with other work."""
    return unit_s + max(0.4 * unit_s, 0.1)


def real_faults(real: dict, by_time: bool = True) -> list[str]:
    """A worker did more work after a cancellation than for one step or tile, or, `by_time`, took longer."""
    faults = [
        f"{what}: a real worker went on for more than one after a cancellation: {stopped}"
        for what in ("in_steps", "in_decode")
        for stopped in real[what]
        if stopped["work_s"] > allowed_s(stopped["unit_work_s"])
        or (by_time and stopped["took_s"] > allowed_s(stopped["unit_s"]))
    ]
    if real["step"]["time_s"] < MIN_STEP_S:
        faults.append(f"a step takes {real['step']['time_s']:.3f} s: too short to tell one from two")
    if real["longest_tile"]["work_s"] > real["decode"]["work_s"] / 2:
        faults.append(f"a tile takes {real['longest_tile']} of {real['decode']} of decoding")
    return faults
