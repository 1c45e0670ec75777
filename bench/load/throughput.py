#!/usr/bin/env python3
"""What the front end itself costs: workers that take no time, the client on the same cores, the audit log on.

    bench/load/throughput.py [--seconds 10] [--out FILE]

A fake worker of 0 ms still takes its own time of the cores (gRPC both ways): all of it counts here.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from bench.load.fake_server import FakeServer, conclude, load  # noqa: E402

MIN_HZ = {1: 1200, 4: 2000}  # By groups.
MAX_ADDED_P50_S = 0.001
SHAPE = ("--mix", "256x256:1")
# 16 connections: one carries no more than one core can do for it.
BUSY = {1: 16, 4: 64}


def measure(server: FakeServer, concurrency: int, seconds: float, connections: int) -> dict:
    cpu_s = server.cpu_s()
    row = load(
        server, "--concurrency", concurrency, "--warm-up", "1s", "--duration", seconds, "--connections", connections,
        *SHAPE, timeout_s=seconds + 60,
    )["rows"][0]  # fmt: skip
    assert set(row["outcomes"]) == {"OK"}, row["outcomes"]
    total = row["outcomes"]["OK"]["total_s"]
    return {
        "concurrency": concurrency,
        "requests_hz": row["throughput_hz"],
        "p50_s": total["p50"],
        "p99_s": total["p99"],
        "front_end_cpu_ms_a_request": 1000 * (server.cpu_s() - cpu_s) / row["succeeded"] * seconds / (seconds + 1),
    }


def run(seconds: float) -> dict:
    result = {"seconds": seconds, "groups": {}}
    faults = []
    for groups, enough_hz in MIN_HZ.items():
        with FakeServer(groups, 0, more={"limits": {"result_bytes": 1 << 20}}) as server:
            alone = measure(server, 1, seconds, 1)
            busy = measure(server, BUSY[groups], seconds, 4)
            lines = len(server.settled_audit())
        result["groups"][groups] = {"alone": alone, "busy": busy, "audit_lines": lines}
        if alone["p50_s"] >= MAX_ADDED_P50_S:
            faults.append(f"{groups} groups: a request alone takes {1000 * alone['p50_s']:.2f} ms (median)")
        if busy["requests_hz"] < enough_hz:
            faults.append(f"{groups} groups: {busy['requests_hz']:.0f} requests a second, not {enough_hz}")
    return result | {"faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    return conclude(arguments.out, run(arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
