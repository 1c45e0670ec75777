#!/usr/bin/env python3
"""What noting (and exporting) traces costs the front end: CPU time and latency of a request, with and without.

    bench/tracing_cost.py [--rounds 21] [--requests 100] [--json FILE]

Three servers with fake workers of 8 ranks (an image takes 20 steps of 1 ms) serve the same requests in turns, one at a
time: one that keeps no traces, one that keeps the last 1,000, as is the default, and one that exports them too. CPU time
is of the server's process, by the kernel's clock of it. Medians over the rounds; a difference is the median of the
differences of a round, and its error half of their middle range over the square root of the rounds.

The exit status is 1 if keeping traces takes more CPU time than 1 % of a request's time, or exporting them more than 2 %.
Where twice the error reaches across that bound there are more rounds, three times as many at most, before the median
decides.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures

import grpc
from end_to_end import program

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import harness  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc  # noqa: E402

RANKS, STEPS, STEP_MS = 8, 20, 1
MOST_PERCENT = {"kept": 1.0, "exported": 2.0}  # CPU time, of the time of a request.


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    traces = 0

    def Export(self, request, context):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                Sink.traces += sum(span.name == "patchflow.generate" for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class Server:
    def __init__(self, tracing: dict, directory: pathlib.Path):
        directory.mkdir()
        config = {
            "server": {"listen": "127.0.0.1:0"},
            "groups": [{"model": str(harness.BUNDLED), "model_name": "fake", "ranks": RANKS}],
            "worker_binary": str(program("patchflow-fake-worker")),
            "tracing": tracing,
        }
        (directory / "config.yaml").write_text(json.dumps(config))
        environment = os.environ | {"PATCHFLOW_FAKE_STEP_MS": str(STEP_MS)}
        self.log = directory / "log"
        with self.log.open("w") as log:
            command = [program("patchflow-server"), "--config", directory / "config.yaml"]
            self.process = subprocess.Popen(command, stderr=log, env=environment)
        deadline = time.monotonic() + 30
        while '"listen":"127' not in self.log.read_text().replace(" ", ""):
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        address = next(line["listen"] for line in lines if line["msg"] == "listening")
        self.stub = harness.api()[1].ImageGenerationServiceStub(grpc.insecure_channel(address))
        self.cpu_clock = (~self.process.pid << 3) | 2  # As clock_getcpuclockid(3) makes it.

    def round(self, requests: int) -> tuple[float, float]:
        """(CPU seconds, seconds) of a request."""
        pb, _ = harness.api()
        request = pb.GenerateImagesUnaryRequest()
        request.generation.prompt.text = "a star"
        request.generation.sampling.steps = STEPS
        cpu, began = time.clock_gettime(self.cpu_clock), time.perf_counter()
        for _ in range(requests):
            self.stub.GenerateImagesUnary(request, timeout=30, wait_for_ready=True)
        took = time.perf_counter() - began
        time.sleep(0.1)  # What is done afterwards counts.
        return (time.clock_gettime(self.cpu_clock) - cpu) / requests, took / requests


def difference(with_it: list[float], without: list[float]) -> dict:
    differences = [a - b for a, b in zip(with_it, without, strict=True)]
    quarters = statistics.quantiles(differences, n=4)
    return {
        "us": 1e6 * statistics.median(differences),
        "error_us": 1e6 * (quarters[2] - quarters[0]) / 2 / len(differences) ** 0.5,
    }


def bound_us(result: dict, kind: str) -> float:
    return MOST_PERCENT[kind] / 100 * result["latency_us"]["none"]


def is_decided(result: dict) -> bool:
    return all(
        abs(result["more_cpu"][kind]["us"] - bound_us(result, kind)) > 2 * result["more_cpu"][kind]["error_us"]
        for kind in MOST_PERCENT
    )


def faults_of(result: dict) -> list[str]:
    return [
        f"{kind}: {more['us']:.0f} ± {more['error_us']:.0f} us more CPU a request, at most {bound_us(result, kind):.0f} "
        f"({MOST_PERCENT[kind]} % of its time) are allowed"
        for kind, more in result["more_cpu"].items()
        if more["us"] > bound_us(result, kind)
    ]


class Measurement:
    """Rounds of all kinds of servers in turns."""

    def __init__(self, servers: dict[str, Server]):
        self.servers = servers
        self.cpu = {kind: [] for kind in servers}
        self.latency = {kind: [] for kind in servers}

    def add(self, rounds: int, requests: int):
        kinds = list(self.servers)
        for number in range(rounds):
            for kind in kinds[number % 3 :] + kinds[: number % 3]:
                of_cpu, of_all = self.servers[kind].round(requests)
                self.cpu[kind].append(of_cpu)
                self.latency[kind].append(of_all)

    def result(self) -> dict:
        result = {
            "rounds": len(self.cpu["none"]),
            "cpu_us": {kind: 1e6 * statistics.median(values) for kind, values in self.cpu.items()},
            "latency_us": {kind: 1e6 * statistics.median(values) for kind, values in self.latency.items()},
            "more_cpu": {kind: difference(self.cpu[kind], self.cpu["none"]) for kind in MOST_PERCENT},
            "more_latency": {kind: difference(self.latency[kind], self.latency["none"]) for kind in MOST_PERCENT},
        }
        for kind in MOST_PERCENT:
            result[f"{kind}_percent_of_a_request"] = 100 * result["more_cpu"][kind]["us"] / result["latency_us"]["none"]
        return result


def wait_ready(server: Server):
    deadline = time.monotonic() + 30
    while not server.stub.ListModels(harness.api()[0].ListModelsRequest(), timeout=10).models[0].ready:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run(rounds: int, requests: int) -> dict:
    collector = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Sink(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    kinds = {"none": {"recent": 0}, "kept": {}, "exported": {"otlp": f"127.0.0.1:{port}"}}
    traces = Sink.traces
    with tempfile.TemporaryDirectory() as directory:
        servers = {kind: Server(tracing, pathlib.Path(directory) / kind) for kind, tracing in kinds.items()}
        measured = Measurement(servers)
        try:
            for server in servers.values():
                wait_ready(server)
                server.round(20)
            measured.add(rounds, requests)
            while not is_decided(measured.result()) and len(measured.cpu["none"]) < 3 * rounds:
                measured.add(rounds // 3 + 1, requests)
        finally:
            for server in servers.values():
                server.process.terminate()
                server.process.wait(30)
    collector.stop(0)
    result = measured.result()
    assert Sink.traces - traces >= result["rounds"] * requests, "traces were lost"
    return result | {"faults": faults_of(result)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--json", type=pathlib.Path)
    asked = parser.parse_args()
    result = {
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
        "ranks": RANKS, "steps": STEPS, "requests_per_round": asked.requests,
    } | run(asked.rounds, asked.requests)  # fmt: skip
    base = result["latency_us"]["none"]
    for kind, more in result["more_cpu"].items():
        later = result["more_latency"][kind]
        print(f"{kind}: {more['us']:.1f} ± {more['error_us']:.1f} us more CPU a request, {later['us']:.0f} ± "
              f"{later['error_us']:.0f} us later, of {base / 1000:.1f} ms: {100 * more['us'] / base:.2f} %")  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")
    for fault in result["faults"]:
        print(fault, file=sys.stderr)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
