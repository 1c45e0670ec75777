#!/usr/bin/env python3
"""Milliseconds from the start of patchflow-server to its first answer of health, and seconds to the bundled model ready.

    bench/start_up.py [--runs 5] [--json FILE]

Asks grpc.health.v1 on a channel that connects anew every 5 ms, so that what is measured is the server.
"""

import argparse
import json
import pathlib
import socket
import statistics
import subprocess
import tempfile
import time

import grpc
from end_to_end import program
from grpc_health.v1 import health_pb2, health_pb2_grpc

MODEL = pathlib.Path(__file__).resolve().parent.parent / "models" / "shapes-256"
LIMIT_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_connectable(port: int, until: float) -> None:
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    raise TimeoutError("the server does not listen")


def one_run(directory: pathlib.Path) -> tuple[float, float]:
    """(seconds to health, seconds to ready)"""
    port = free_port()
    config = directory / "config.yaml"
    config.write_text(f'server: {{listen: "127.0.0.1:{port}"}}\ngroups: [{{model: {MODEL}, device: cpu}}]\n')
    began = time.monotonic()
    with (directory / "log").open("w") as log:
        process = subprocess.Popen([program("patchflow-server"), "--config", config], stderr=log)
    try:
        wait_connectable(port, began + LIMIT_S)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            def serving(service: str) -> bool:
                asked = health_pb2.HealthCheckRequest(service=service)
                return stub.Check(asked, timeout=10).status == health_pb2.HealthCheckResponse.SERVING

            assert serving("liveness")
            to_health = time.monotonic() - began
            while not serving("readiness"):
                assert time.monotonic() - began < LIMIT_S, (directory / "log").read_text()
                time.sleep(0.005)
            return to_health, time.monotonic() - began
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = [one_run(pathlib.Path(name)) for _ in range(arguments.runs)]
    report = {
        "health_ms": 1000 * statistics.median(health for health, _ in runs),
        "ready_s": statistics.median(ready for _, ready in runs),
        "slowest_health_ms": 1000 * max(health for health, _ in runs),
        "slowest_ready_s": max(ready for _, ready in runs),
        "runs": arguments.runs,
    }
    print(json.dumps(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
