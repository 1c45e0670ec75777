#!/usr/bin/env python3
"""How soon a cancellation takes effect, and what many of them leave behind.

    bench/load/cancels.py [--rounds 50] [--real-rounds 10] [--cancels 10000] [--out FILE]

* A request that waits ends within 50 ms of CancelGeneration.
* A running one ends as soon, and its group is free for the next within one step.
* The same of a real worker: within a step of the bundled model, and while it decodes within a tile, of which the longest is
  measured: how old the last sign of life of a rank gets meanwhile.
* After many random cancellations nothing is left: no generation, no stream, no memory.
"""

import argparse
import pathlib
import random
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import grpc  # noqa: E402

from bench.load.fake_server import FakeServer, MeasuredServer, conclude, harness, load  # noqa: E402
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


def decode_span_s(server, request_id: str) -> tuple[float, float]:
    """When rank 0 began and ended decoding, since the epoch, by the server's trace."""
    pb, _ = harness.api()
    trace = server.stub.GetGenerationTrace(pb.GetGenerationTraceRequest(request_id=request_id), timeout=10)
    [span] = [span for span in trace.spans if span.name == "decode" and span.row == "rank 0"]
    began = trace.begin_time.ToNanoseconds()
    return (began + span.begin_ns) / 1e9, (began + span.end_ns) / 1e9


def longest_tile_s(server: MeasuredServer, asked) -> float:
    """Of decoding one image: a rank gives a sign of life after each tile, and its age is a metric."""
    ages: list[tuple[float, float]] = []
    over = threading.Event()

    def look():
        while not over.is_set():
            began = time.time()
            [age] = server.metric("patchflow_rank_last_step_age_seconds")
            ages.append(((began + time.time()) / 2, age))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        harness.generate(server, asked)
    finally:
        over.set()
        looking.join()
    begin, end = decode_span_s(server, asked.request_id)
    return max(age for when, age in ages if begin <= when - age and when <= end)


def real_worker(rounds: int) -> dict:
    """On CPUs. A step of 256 px in the midst of denoising; a tile of the decoding of 512 px."""
    steps_s, decode_s = [], []
    chance = random.Random(3)
    beats = {"supervision": {"heartbeat_interval": "10ms"}}
    with MeasuredServer([harness.Group(harness.BUNDLED)], beats) as server:
        server.wait_ready()

        def large(request_id: str):
            request = request_of(request_id, 1)
            request.image.width = request.image.height = 512
            return request

        alone = harness.generate(server, request_of("steps", 20)).completed
        step_s = {timing.stage: timing.duration.ToNanoseconds() / 1e9 for timing in alone.timings}["denoise"] / 20
        timings = harness.generate(server, large("large")).completed.timings
        whole_decode_s = {timing.stage: timing.duration.ToNanoseconds() / 1e9 for timing in timings}["vae_decode"]
        tile_s = statistics.median(longest_tile_s(server, large(f"tiles-{i}")) for i in range(3))
        for i in range(rounds):
            call = server.stub.GenerateImages(request_of(f"steps-{i}", 200), timeout=120)
            wait_for_step(call, 3)
            steps_s.append(free_after_cancel(server, call, f"steps-{i}"))
            call = server.stub.GenerateImages(large(f"decode-{i}"), timeout=120)
            wait_for_step(call, 1)
            time.sleep(chance.uniform(0, 0.7 * whole_decode_s))  # Early tiles are the small ones.
            decode_s.append(free_after_cancel(server, call, f"decode-{i}"))
    return {
        "step_s": step_s,
        "free_in_steps_s": {"median": statistics.median(steps_s), "max": max(steps_s)},
        "decode_s": whole_decode_s,
        "longest_tile_s": tile_s,
        "free_in_decode_s": {"median": statistics.median(decode_s), "max": max(decode_s)},
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


def real_faults(real: dict) -> list[str]:
    """Within one step, within one tile; a single one may meet other work of the machine."""
    faults = []
    for what, unit_s in (("free_in_steps_s", real["step_s"]), ("free_in_decode_s", real["longest_tile_s"])):
        took = real[what]
        if took["median"] > unit_s + MARGIN_S or took["max"] > 1.5 * unit_s + 2 * MARGIN_S:
            faults.append(f"a real worker: {what} {took}, a step or tile takes {unit_s:.3f} s")
    if real["longest_tile_s"] > real["decode_s"] / 2:
        faults.append(f"a tile takes {real['longest_tile_s']:.3f} of {real['decode_s']:.3f} s of decoding")
    return faults


def run(rounds: int, cancels: int, real_rounds: int) -> dict:
    times, real, left = latencies(rounds), real_worker(real_rounds), leftovers(cancels)
    faults = list(left["faults"])
    for what in ("queued_end_s", "running_end_s"):
        if times[what]["median"] > MAX_END_S or times[what]["max"] > MAX_END_S + MARGIN_S:
            faults.append(f"{what}: {times[what]}")
    if times["group_free_s"]["max"] > STEP_MS / 1000 + MARGIN_S:
        faults.append(f"the group was busy for {times['group_free_s']['max']:.3f} s after a cancellation")
    faults += real_faults(real)
    return {"latencies": times, "real_worker": real, "leftovers": left, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--real-rounds", type=int, default=10)
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    return conclude(arguments.out, run(arguments.rounds, arguments.cancels, arguments.real_rounds))


if __name__ == "__main__":
    sys.exit(main())
