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


def job_end(server: MeasuredServer, request_id: str, timeout_s: float = 60) -> float:
    """When the ranks had ended this job, since the epoch, as the worker logs it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for line in server.log().splitlines():
            if '"job ended"' in line and f'"{request_id}"' in line:
                return datetime.datetime.fromisoformat(json.loads(line)["time"]).timestamp()
        time.sleep(0.02)
    raise AssertionError(f"no end of {request_id} in the log after {timeout_s} s")


def work_s(server: MeasuredServer) -> float:
    """CPU seconds of the only worker, until now."""
    [worker] = server.workers()
    return time.clock_gettime((~worker << 3) | 2)  # As clock_getcpuclockid(3) makes it.


class SignsOfLife(Beside):
    """Rank 0 gives one at each step and tile, and their age is a metric: that of the last one each 50 ms, the least interval
    of heartbeats."""

    def __init__(self, server: MeasuredServer):
        self._server = server
        self.times: list[float] = []
        super().__init__()

    def _run(self):
        while not self._over.is_set():
            began = time.time()
            ages = self._server.metric("patchflow_rank_last_step_age_seconds")
            sign = (began + time.time()) / 2 - ages[0] if ages else 0
            if not self.times or sign > self.times[-1] + SAME_SIGN_S:
                self.times.append(sign)


class Undisturbed:
    """One image: how long its steps take, and when its tiles are decoded."""

    def __init__(self, server: MeasuredServer):
        request_id = "undisturbed"
        with SignsOfLife(server) as signs:
            call = server.stub.GenerateImages(request_of(request_id, STEPS, EDGE_PX), timeout=300)
            wait_for_step(call, 0)
            works, times = [work_s(server)], [time.time()]
            for step in range(1, STEPS + 1):
                wait_for_step(call, step)
                works.append(work_s(server))
                times.append(time.time())
            assert list(call)[-1].HasField("completed")
        self.step_work_s = statistics.median(end - begin for begin, end in itertools.pairwise(works))
        self.step_s = statistics.median(end - begin for begin, end in itertools.pairwise(times))
        begin, end = decode_span(server, request_id)
        self.decode_s = end - begin
        inner = [sign - begin for sign in signs.times if begin + SAME_SIGN_S < sign < end]
        self.tiles = list(itertools.pairwise([0, *inner, end - begin]))

    def longest_tile_s(self, from_s: float = 0) -> float:
        """Of those that have not ended half of `from_s` after the decoding began: twice as fast as it then was, at most."""
        return max(end - begin for begin, end in self.tiles if end > from_s / 2)


class CancelledRounds:
    """`late` waits between a cancellation and sending it: for the next step, or as long as the longest tile takes."""

    def __init__(self, server: MeasuredServer, alone: Undisturbed, rounds: int, late: bool):
        self.server, self.alone, self.rounds, self.late = server, alone, rounds, late

    def _stop(self, call, request_id: str, wait: Callable[[], object]) -> dict:
        began, work_before_s = time.time(), work_s(self.server)
        if self.late:
            wait()
        cancel(self.server, call, request_id)
        took_s = job_end(self.server, request_id) - began
        return {"took_s": took_s, "work_s": work_s(self.server) - work_before_s}

    def in_step(self, number: int) -> dict:
        """Cancellations are spread evenly over all steps, and so over each one."""
        at = (number + 0.5) / self.rounds * STEPS
        request_id = f"step-{number}"
        call = self.server.stub.GenerateImages(request_of(request_id, STEPS, EDGE_PX), timeout=300)
        done = wait_for_step(call, int(at))
        step_s = max([self.alone.step_s, *(end - begin for begin, end in itertools.pairwise(done))])
        time.sleep(at % 1 * self.alone.step_s)
        stopped = self._stop(call, request_id, lambda: wait_for_step(call, int(at) + 1))
        return {"at_step": at, "step_s": step_s} | stopped

    def in_decode(self, number: int, attempts: int = 5) -> dict:
        """They are spread evenly over all of the decoding. One that came after its end is tried again, sooner."""
        at_s = (number + 0.5) / self.rounds * self.alone.decode_s
        for attempt in range(attempts):
            request_id = f"decode-{number}-{attempt}"
            call = self.server.stub.GenerateImages(request_of(request_id, 1, EDGE_PX), timeout=300)
            wait_for_step(call, 1)
            time.sleep(at_s)
            stopped = self._stop(call, request_id, lambda: time.sleep(self.alone.longest_tile_s()))
            if stopped["took_s"] > 0:
                return {"at_s": at_s, "tile_s": self.alone.longest_tile_s(at_s)} | stopped
            at_s *= 0.8
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
            "step_s": alone.step_s,
            "step_work_s": alone.step_work_s,
            "decode_s": alone.decode_s,
            "longest_tile_s": alone.longest_tile_s(),
            "longest_tile_of_second_half_s": alone.longest_tile_s(alone.decode_s),
            "in_steps": [cancelled.in_step(number) for number in range(rounds)],
            "in_decode": [cancelled.in_decode(number) for number in range(rounds)],
        }


def allowed_s(unit_s: float) -> float:
    """One step or tile; 40 % (less than half a step) or 0.1 s are for a machine with other work."""
    return unit_s + max(0.4 * unit_s, 0.1)


def real_faults(real: dict) -> list[str]:
    faults = []
    for stopped in real["in_steps"]:
        steps = stopped["work_s"] / real["step_work_s"]
        if steps > 1.4 or stopped["took_s"] > allowed_s(stopped["step_s"]):
            faults.append(f"in a step: a real worker did {steps:.2f} steps after a cancellation: {stopped}")
    for stopped in real["in_decode"]:
        if stopped["took_s"] > allowed_s(stopped["tile_s"]):
            faults.append(f"in decoding: a real worker went on longer than a tile after a cancellation: {stopped}")
    if real["step_s"] < MIN_STEP_S:
        faults.append(f"a step takes {real['step_s']:.3f} s: too short to tell one from two")
    if real["longest_tile_s"] > real["decode_s"] / 2:
        faults.append(f"a tile takes {real['longest_tile_s']:.3f} of {real['decode_s']:.3f} s of decoding")
    return faults
