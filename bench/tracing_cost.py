#!/usr/bin/env python3
"""What noting (and exporting) traces costs the front end: CPU time and latency of a request, with and without.

    bench/tracing_cost.py [--rounds 20] [--requests 100] [--json FILE]

Three servers with fake workers of 8 ranks (an image takes 20 steps of 1 ms) serve the same requests in turns, one at a
time: one that keeps no traces, one that keeps the last 1,000, as is the default, and one that exports them too. CPU time
is of the server's process, by the kernel's clock of it. Medians over the rounds; a difference is the median of the
differences of a round, and its error half of their middle range over the square root of the rounds.
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--json", type=pathlib.Path)
    asked = parser.parse_args()
    collector = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Sink(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    kinds = {"none": {"recent": 0}, "kept": {}, "exported": {"otlp": f"127.0.0.1:{port}"}}
    cpu, latency = {kind: [] for kind in kinds}, {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as directory:
        servers = {kind: Server(tracing, pathlib.Path(directory) / kind) for kind, tracing in kinds.items()}
        try:
            for server in servers.values():
                deadline = time.monotonic() + 30
                while not server.stub.ListModels(harness.api()[0].ListModelsRequest(), timeout=10).models[0].ready:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                server.round(20)
            for number in range(asked.rounds):
                order = list(kinds)[number % 3 :] + list(kinds)[: number % 3]
                for kind in order:
                    of_cpu, of_all = servers[kind].round(asked.requests)
                    cpu[kind].append(of_cpu)
                    latency[kind].append(of_all)
        finally:
            for server in servers.values():
                server.process.terminate()
                server.process.wait(30)
    assert Sink.traces >= asked.rounds * asked.requests, "traces were lost"
    result = {
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
        "ranks": RANKS, "steps": STEPS, "rounds": asked.rounds, "requests_per_round": asked.requests,
        "cpu_us": {kind: 1e6 * statistics.median(values) for kind, values in cpu.items()},
        "latency_us": {kind: 1e6 * statistics.median(values) for kind, values in latency.items()},
        "more_cpu": {kind: difference(cpu[kind], cpu["none"]) for kind in ("kept", "exported")},
        "more_latency": {kind: difference(latency[kind], latency["none"]) for kind in ("kept", "exported")},
    }
    base = result["latency_us"]["none"]
    for kind in ("kept", "exported"):
        more, later = result["more_cpu"][kind], result["more_latency"][kind]
        result[f"{kind}_percent_of_a_request"] = 100 * more["us"] / base
        print(f"{kind}: {more['us']:.1f} ± {more['error_us']:.1f} us more CPU a request, {later['us']:.0f} ± "
              f"{later['error_us']:.0f} us later, of {base / 1000:.1f} ms: {100 * more['us'] / base:.2f} %")
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
