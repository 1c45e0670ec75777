#!/usr/bin/env python3
"""How soon a cancellation takes effect, and what many of them leave behind.

    bench/load/cancels.py [--cancels 10000] [--out FILE]

* A request that waits ends within 50 ms of CancelGeneration.
* A running one ends as soon, and its group is free for the next within one step.
* After many random cancellations nothing is left: no generation, no stream, no memory.
"""

import argparse
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import grpc  # noqa: E402

from bench.load.fake_server import FakeServer, harness, load, write_result  # noqa: E402
from bench.load.join import accounting_faults  # noqa: E402
from bench.load.soak import MAX_GROWTH_MIB  # noqa: E402

MAX_END_S = 0.05
STEP_MS = 100
MARGIN_S = 0.05  # Of a machine with other work.


def request_of(request_id: str, steps: int):
    pb, _ = harness.api()
    request = pb.GenerateImagesRequest(request_id=request_id, prompt=pb.Prompt(text=request_id))
    request.sampling.steps, request.sampling.seed = steps, 1
    return request


def cancel(server: FakeServer, call, request_id: str) -> float:
    """Seconds from CancelGeneration until the call of that request has ended with CANCELLED."""
    pb, _ = harness.api()
    began = time.monotonic()
    server.stub.CancelGeneration(pb.CancelGenerationRequest(request_id=request_id), timeout=10)
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.CANCELLED, error
    return time.monotonic() - began


def wait_for_step(call, step: int):
    for message in call:
        if message.WhichOneof("event") == "progress" and message.progress.step >= step:
            return
    raise AssertionError("the generation ended early")


def latencies(rounds: int) -> dict:
    """Of a queued and a running cancellation, and until the group works on the next request."""
    pb, _ = harness.api()
    queued_s, running_s, free_s = [], [], []
    with FakeServer(1, STEP_MS) as server:
        for i in range(rounds):
            first = server.stub.GenerateImages(request_of(f"first-{i}", 200), timeout=60)
            wait_for_step(first, 1)
            waiting = server.stub.GenerateImages(request_of(f"waiting-{i}", 1), timeout=60)
            next(waiting)
            after = server.stub.GenerateImages(request_of(f"after-{i}", 1), timeout=60)
            next(after)
            queued_s.append(cancel(server, waiting, f"waiting-{i}"))
            began = time.monotonic()
            running_s.append(cancel(server, first, f"first-{i}"))
            for message in after:
                if message.WhichOneof("event") == "progress" and message.progress.state == pb.STATE_RUNNING:
                    free_s.append(time.monotonic() - began)
                    break
            for _ in after:
                pass
        latency = [sum(server.metric(f"patchflow_cancel_latency_seconds_{part}")) for part in ("sum", "count")]
    return {
        "rounds": rounds,
        "step_ms": STEP_MS,
        "queued_end_s": {"median": statistics.median(queued_s), "max": max(queued_s)},
        "running_end_s": {"median": statistics.median(running_s), "max": max(running_s)},
        "group_free_s": {"median": statistics.median(free_s), "max": max(free_s)},
        "server_says_mean_s": latency[0] / max(1, latency[1]),
    }


def leftovers(cancels: int) -> dict:
    """What so many random cancellations leave."""
    limits = {"result_bytes": 1 << 20, "result_age": "2s"}
    with FakeServer(2, 3, more={"limits": limits}) as server:
        def storm(requests: int, seed: int) -> dict:
            return load(
                server, "--concurrency", 64, "--requests", requests, "--connections", 8, "--mix", "256x256:4",
                "--cancels", 0.5, "--cancel-calls", 0.5, "--within", "100ms", "--seed", seed,
            )["rows"][0]["outcomes"]  # fmt: skip

        storm(max(500, cancels // 10), 2)
        server.settled_audit()
        before_mib = server.resident_mib()
        outcomes = storm(cancels, 3)
        audit = server.settled_audit()
        growth_mib = server.resident_mib() - before_mib
        faults = accounting_faults(server, audit)
        deadline = time.monotonic() + 20
        while sum(server.metric("patchflow_results_kept")) > 0 and time.monotonic() < deadline:
            time.sleep(0.2)
        kept = sum(server.metric("patchflow_results_kept"))
        working = load(server, "--concurrency", 2, "--requests", 20)["rows"][0]["outcomes"]
    if kept:
        faults.append(f"{kept:.0f} results are kept after their time")
    if growth_mib > MAX_GROWTH_MIB:
        faults.append(f"memory grew by {growth_mib:.1f} MiB")
    if set(working) != {"OK"}:
        faults.append(f"afterwards: {sorted(working)}")
    return {
        "cancels": cancels,
        "outcomes": {name: outcome["count"] for name, outcome in outcomes.items()},
        "memory_growth_mib": growth_mib,
        "faults": faults,
    }


def run(rounds: int, cancels: int) -> dict:
    times, left = latencies(rounds), leftovers(cancels)
    faults = list(left["faults"])
    for what in ("queued_end_s", "running_end_s"):
        if times[what]["median"] > MAX_END_S or times[what]["max"] > MAX_END_S + MARGIN_S:
            faults.append(f"{what}: {times[what]}")
    if times["group_free_s"]["max"] > STEP_MS / 1000 + MARGIN_S:
        faults.append(f"the group was busy for {times['group_free_s']['max']:.3f} s after a cancellation")
    return {"latencies": times, "leftovers": left, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    result = run(arguments.rounds, arguments.cancels)
    write_result(arguments.out, result)
    for fault in result["faults"]:
        print(fault, file=sys.stderr)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
