#!/usr/bin/env python3
"""Many mixed requests from many clients against fake groups, with clients that cancel, pass deadlines and vanish, and
workers killed meanwhile. Every outcome is joined between client and audit log; memory of the front end must stay flat.

    bench/load/soak.py [--requests 100000] [--kills 20] [--leak] [--out FILE]

Ends with 1 if anything was lost, duplicated or crossed, the accounts do not add up, a way to leave or a kill hit nothing, or
memory grew. --leak preloads a gRPC that frees no message (leak.c), a leak on purpose: the check of memory must then fail.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from bench.load.fake_server import Beside, FakeServer, conclude, kill_a_worker, load_command  # noqa: E402
from bench.load.join import Join, accounting_faults  # noqa: E402

MAX_GROWTH_MIB = 8
MIX = ("256x256:1:6", "256x128:2:3", "512x512:1:1")
LEAVING = {"--cancels": 0.05, "--cancel-calls": 0.05, "--disconnects": 0.02, "--deadlines": 0.05}
# Results are kept a short while, so that memory is flat long before a tenth of the run.
FLAT = {"result_bytes": 1 << 20, "result_age": "2s"}
# How outcomes begin that must have come: of those that left in each way, and of the others.
EXPECTED = ("OK", "CANCELLED", "CANCELLED/CANCELLED_BY_REQUEST", "UNAVAILABLE", "DEADLINE_EXCEEDED")


@contextlib.contextmanager
def preloaded_leak():
    """A program started inside, and what it starts, frees no message of gRPC."""
    with tempfile.TemporaryDirectory(prefix="patchflow-leak-") as folder:
        library = pathlib.Path(folder) / "leak.so"
        source = pathlib.Path(__file__).with_name("leak.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        os.environ["LD_PRELOAD"] = str(library)
        try:
            yield
        finally:
            del os.environ["LD_PRELOAD"]


class Disturber(Beside):
    """Watches progress and memory of a run, and kills workers evenly over it."""

    def __init__(self, server: FakeServer, requests: int, kills: int):
        self.server, self.requests, self.to_kill = server, requests, kills
        self.kills = 0
        self.samples = []  # (part done, MiB)
        super().__init__()

    def _run(self):
        while not self._over.wait(0.1):
            part = sum(self.server.metric("patchflow_requests_total", 'method="GenerateImages"')) / self.requests
            self.samples.append((part, self.server.resident_mib()))
            if self.kills < self.to_kill and part >= (self.kills + 0.5) / self.to_kill:
                self.kills += kill_a_worker(self.server, self.kills)

    def growth_mib(self) -> tuple[float, float]:
        """Memory at a tenth of the run, and what it grew by until its end."""
        at_tenth = next(mib for part, mib in self.samples if part >= 0.1)
        return at_tenth, self.server.resident_mib() - at_tenth


def run(requests: int, kills: int, leak: bool = False, clients: int = 64, groups: int = 4, step_ms: float = 3) -> dict:
    with preloaded_leak() if leak else contextlib.nullcontext():
        started = FakeServer(groups, step_ms, more={"limits": FLAT})
    with started as server:
        records = server.path / "records.jsonl"
        command = load_command(
            server, "--concurrency", clients, "--requests", requests, "--connections", 16, "--records", records,
            "--within", "100ms", *[word for shape in MIX for word in ("--mix", shape)],
            *[word for share in LEAVING.items() for word in share],
        )  # fmt: skip
        began, cpu_s = time.monotonic(), server.cpu_s()
        with Disturber(server, requests, kills) as disturber:
            done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        audit = server.settled_audit()
        at_tenth_mib, growth_mib = disturber.growth_mib()
        joined = Join([json.loads(line) for line in records.read_text().splitlines()], audit)
        restarts = sum(server.metric("patchflow_group_restarts_total"))
        faults = [*joined.summary()["first_faults"], *accounting_faults(server, audit)]
        if sum(joined.outcomes.values()) != requests:
            faults.append(f"{sum(joined.outcomes.values())} records of {requests} requests")
        if disturber.kills < kills:
            faults.append(f"only {disturber.kills} of {kills} workers were killed")
        if missing := [e for e in EXPECTED if not any(outcome.startswith(e) for outcome in joined.outcomes)]:
            faults.append(f"no request ended with {', '.join(missing)}: {dict(joined.outcomes)}")
        if kills and not joined.reruns:
            faults.append("no kill hit a running job")
        if growth_mib > MAX_GROWTH_MIB:
            faults.append(f"memory grew by {growth_mib:.1f} MiB, more than {MAX_GROWTH_MIB}")
        return {
            "requests": requests,
            "clients": clients,
            "groups": groups,
            "step_ms": step_ms,
            "leak": leak,
            "seconds": seconds,
            "requests_per_s": requests / seconds,
            "front_end_cpu_s": server.cpu_s() - cpu_s,
            "kills": disturber.kills,
            "restarts": restarts,
            "memory_at_tenth_mib": at_tenth_mib,
            "memory_growth_mib": growth_mib,
            "joined": joined.summary(),
            "faults": faults,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--leak", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    return conclude(arguments.out, run(arguments.requests, arguments.kills, arguments.leak))


if __name__ == "__main__":
    sys.exit(main())
