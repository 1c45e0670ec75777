#!/usr/bin/env python3
"""Ten times more requests than a fake group can do, arriving by Poisson whatever happens: what is refused must be refused at
once and say when to come back, and what is accepted must go on at full speed.

    bench/load/overload.py [--seconds 60] [--out FILE]
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from bench.load.fake_server import FakeServer, conclude, load  # noqa: E402

STEP_MS = 10
FACTOR = 10
MAX_REJECTION_P99_S = 0.05
MIN_PART_OF_PEAK = 0.95
MIN_PART_SENT = 0.95  # Of what Poisson brings; in a minute that is within 1 %.
QUEUE = 32
SHAPE = ("--mix", "256x256:1")


def run(
    seconds: float, min_part_of_peak: float = MIN_PART_OF_PEAK, max_rejection_p99_s: float = MAX_REJECTION_P99_S
) -> dict:
    with FakeServer(1, STEP_MS, more={"limits": {"max_queue": QUEUE, "result_bytes": 1 << 20}}) as server:
        # The peak: a queue that is never empty and never full.
        closed = ("--concurrency", 8, "--warm-up", "1s", "--duration", max(3, seconds / 6), *SHAPE)
        before = load(server, *closed)["rows"][0]["throughput_hz"]
        memory_mib = server.resident_mib()
        records = server.path / "records.jsonl"
        rate = FACTOR * 1000 / STEP_MS
        report = load(
            server, "--rate", rate, "--warm-up", "1s", "--duration", seconds, "--records", records, *SHAPE,
            "--connections", 4, timeout_s=seconds + 120,
        )  # fmt: skip
        growth_mib = server.resident_mib() - memory_mib
        after = load(server, *closed)["rows"][0]["throughput_hz"]
        row = report["rows"][0]
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        refused = [line for line in lines if line["code"] == "RESOURCE_EXHAUSTED"]
        queue_full = row["outcomes"].get("RESOURCE_EXHAUSTED/QUEUE_FULL", {"count": 0, "total_s": {"p99": 0}})
        result = {
            "seconds": seconds,
            "rate_hz": rate,
            "sent_hz": row["sent"] / row["window_s"],
            "peak_before_hz": before,
            "peak_after_hz": after,
            "accepted_hz": row["throughput_hz"],
            "part_of_peak": row["throughput_hz"] / ((before + after) / 2),
            "memory_growth_mib": growth_mib,
            "rejections": queue_full["total_s"] | {"count": queue_full["count"]},
            "without_retry_info": sum(not line["retry_info"] for line in refused),
            "outcomes": {name: outcome["count"] for name, outcome in row["outcomes"].items()},
            "late_p99_s": row["late_s"]["p99"],
        }
        return result | {"faults": faults_of(result, min_part_of_peak, max_rejection_p99_s)}


def faults_of(result: dict, min_part_of_peak: float, max_rejection_p99_s: float) -> list[str]:
    faults = []
    if result["sent_hz"] < MIN_PART_SENT * result["rate_hz"]:
        faults.append(f"only {result['sent_hz']:.0f} requests a second were sent, not {result['rate_hz']:.0f}")
    if set(result["outcomes"]) != {"OK", "RESOURCE_EXHAUSTED/QUEUE_FULL"}:
        faults.append(f"outcomes other than OK and QUEUE_FULL: {result['outcomes']}")
    if result["rejections"]["p99"] >= max_rejection_p99_s:
        faults.append(f"p99 of a rejection is {1000 * result['rejections']['p99']:.1f} ms")
    if result["without_retry_info"]:
        faults.append(f"{result['without_retry_info']} rejections without RetryInfo")
    if result["part_of_peak"] < min_part_of_peak:
        faults.append(f"{100 * result['part_of_peak']:.1f} % of the peak's throughput")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    return conclude(arguments.out, run(arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
