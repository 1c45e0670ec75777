#!/usr/bin/env python3
"""How soon a cancellation takes effect, and what many of them leave behind.

    bench/load/cancels.py [--rounds 50] [--real-rounds 10] [--cancels 10000] [--late] [--out FILE]

* A request that waits ends within 50 ms of CancelGeneration.
* A running one ends as soon, and its group is free for the next within one step.
* A real worker has ended the job within the step, or within the tile of decoding, in which it was cancelled
  (running_cancels.py). --late cancels later than it says: this check must then fail.
* After so many requests were cancelled at random nothing is left: no generation, no stream, no result, no file, no memory.
"""

import argparse
import collections
import pathlib
import random
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from bench.load.fake_server import Beside, FakeServer, conclude, harness, load  # noqa: E402
from bench.load.join import accounting_faults  # noqa: E402
from bench.load.running_cancels import cancel, real_faults, real_worker, request_of, wait_for_step  # noqa: E402
from bench.load.soak import MAX_GROWTH_MIB  # noqa: E402

MAX_END_S = 0.05
STEP_MS = 200
MARGIN_S = 0.05  # Of a machine with other work: a quarter of a step.


def free_after_cancel(server, first, request_id: str) -> float:
    """Seconds from the cancellation of the running request until its group works on the next one, by the trace of that: when
    rank 0 began with its steps. (The server's RUNNING does not tell: it says that the worker was called; nor does its text,
    which may be encoded before.)"""
    pb, _ = harness.api()
    after = server.stub.GenerateImages(request_of(f"after-{request_id}", 1), timeout=60)
    next(after)
    began = time.time()
    cancel(server, first, request_id)
    for _ in after:
        pass
    trace = server.stub.GetGenerationTrace(
        pb.GetGenerationTraceRequest(request_id=f"after-{request_id}"), timeout=10
    )
    [steps] = [span for span in trace.spans if span.name == "steps" and span.row == "rank 0"]
    return max(0, (trace.begin_time.ToNanoseconds() + steps.begin_ns) / 1e9 - began)


def latencies(rounds: int) -> dict:
    """Of a queued and a running cancellation, and until the group works on the next request."""
    queued_s, running_s, free_s = [], [], []
    chance = random.Random(3)
    with FakeServer(1, STEP_MS) as server:
        for i in range(rounds):
            first = server.stub.GenerateImages(request_of(f"first-{i}", 200), timeout=60)
            wait_for_step(first, 1)
            waiting = server.stub.GenerateImages(request_of(f"waiting-{i}", 1), timeout=60)
            next(waiting)
            after = server.stub.GenerateImages(request_of(f"after-{i}", 1), timeout=60)
            next(after)
            queued_s.append(cancel(server, waiting, f"waiting-{i}"))
            running_s.append(cancel(server, first, f"first-{i}"))
            for _ in after:
                pass
            first = server.stub.GenerateImages(request_of(f"second-{i}", 200), timeout=60)
            wait_for_step(first, 1)
            time.sleep(chance.uniform(0, STEP_MS / 1000))
            free_s.append(free_after_cancel(server, first, f"second-{i}"))
        latency = [sum(server.metric(f"patchflow_cancel_latency_seconds_{part}")) for part in ("sum", "count")]
    return {
        "rounds": rounds,
        "step_ms": STEP_MS,
        "queued_end_s": {"median": statistics.median(queued_s), "max": max(queued_s)},
        "running_end_s": {"median": statistics.median(running_s), "max": max(running_s)},
        "group_free_s": {"median": statistics.median(free_s), "max": max(free_s)},
        "server_says_mean_s": latency[0] / max(1, latency[1]),
    }


class DetachedStorm(Beside):
    """Hands in jobs that go on without their clients, leaves, and cancels them at random."""

    def __init__(self, server: FakeServer):
        self.server = server
        self.cancelled = 0
        super().__init__()

    def _run(self):
        pb, _ = harness.api()
        chance = random.Random(4)
        number = 0
        while not self._over.is_set():
            request = request_of(f"detached-{number}", 4)
            request.scheduling.on_disconnect = pb.DISCONNECT_POLICY_DETACH
            number += 1
            call = self.server.stub.GenerateImages(request, timeout=30)
            next(call)
            call.cancel()
            time.sleep(chance.uniform(0, 0.03))
            asked = pb.CancelGenerationRequest(request_id=request.request_id)
            self.cancelled += self.server.stub.CancelGeneration(asked, timeout=10).state == pb.STATE_CANCELLED


def cancelled_in(audit: list[dict]) -> int:
    return sum(line["event"] == "generation" and line["state"] == "STATE_CANCELLED" for line in audit)


def storm(server: FakeServer, requests: int, seed: int) -> collections.Counter:
    """All of them give up; some too late. What became of how many."""
    outcomes = load(
        server, "--concurrency", 64, "--requests", requests, "--connections", 8, "--mix", "256x256:4",
        "--cancels", 0.5, "--cancel-calls", 0.5, "--within", "100ms", "--seed", seed,
    )["rows"][0]["outcomes"]  # fmt: skip
    return collections.Counter({name: outcome["count"] for name, outcome in outcomes.items()})


# What counts something that is there for a cancelled request, or for one that ended before it was cancelled.
STATE = (
    "queue_depth", "queue_depth_by_priority", "queue_oldest_seconds", "requests_running", "streams_open", "generations_live",
    "results_kept", "results_kept_bytes", "store_generations", "store_bytes", "audit_waiting_lines",
)  # fmt: skip


def state_faults(server: FakeServer, timeout_s: float = 30) -> list[str]:
    """What is left once results and stored jobs are older than they may get."""
    deadline = time.monotonic() + timeout_s
    while True:
        values = {name: server.metric(f"patchflow_{name}") for name in STATE}
        faults = [f"patchflow_{name} is {found or 'missing'}" for name, found in values.items() if not found or any(found)]
        images = [path.name for path in (server.log_path.parent / "store" / "images").iterdir()]
        faults += [f"{len(images)} files are in the store: {images[:3]}"] if images else []
        if not faults or time.monotonic() > deadline:
            return faults
        time.sleep(0.2)


def leftovers(cancels: int) -> dict:
    """What so many random cancellations leave: of so many generations that the audit log calls cancelled."""
    more = {
        "limits": {"result_bytes": 1 << 20, "result_age": "2s"},
        "store": {"directory": "store", "max_age": "2s"},
    }
    with FakeServer(2, 3, more=more) as server:
        storm(server, max(500, cancels // 10), 2)
        audit = server.settled_audit()
        before, before_mib = cancelled_in(audit), server.resident_mib()
        cancelled, outcomes = 0, collections.Counter()
        with DetachedStorm(server) as detached:
            while cancelled < cancels:
                outcomes += storm(server, max(200, cancels - cancelled), 3 + cancelled)
                cancelled = cancelled_in(server.audit()) - before
        audit = server.settled_audit()
        growth_mib = server.resident_mib() - before_mib
        faults = accounting_faults(server, audit) + state_faults(server)
        cancelled = cancelled_in(audit) - before
        working = load(server, "--concurrency", 2, "--requests", 20)["rows"][0]["outcomes"]
    if cancelled < cancels:
        faults.append(f"only {cancelled} of {cancels} generations were cancelled")
    if not detached.cancelled:
        faults.append("no detached job was cancelled")
    if growth_mib > MAX_GROWTH_MIB:
        faults.append(f"memory grew by {growth_mib:.1f} MiB")
    if set(working) != {"OK"}:
        faults.append(f"afterwards: {sorted(working)}")
    return {
        "cancelled": cancelled,
        "detached_cancelled": detached.cancelled,
        "outcomes": dict(sorted(outcomes.items())),
        "memory_growth_mib": growth_mib,
        "faults": faults,
    }


def run(rounds: int, cancels: int, real_rounds: int, late: bool = False, by_time: bool = True) -> dict:
    times, real, left = latencies(rounds), real_worker(real_rounds, late), leftovers(cancels)
    faults = list(left["faults"])
    for what in ("queued_end_s", "running_end_s"):
        if times[what]["median"] > MAX_END_S or times[what]["max"] > MAX_END_S + MARGIN_S:
            faults.append(f"{what}: {times[what]}")
    if times["group_free_s"]["max"] > STEP_MS / 1000 + MARGIN_S:
        faults.append(f"the group was busy for {times['group_free_s']['max']:.3f} s after a cancellation")
    faults += real_faults(real, by_time)
    return {"latencies": times, "real_worker": real, "leftovers": left, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--real-rounds", type=int, default=10)
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--late", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    return conclude(arguments.out, run(arguments.rounds, arguments.cancels, arguments.real_rounds, arguments.late))


if __name__ == "__main__":
    sys.exit(main())
