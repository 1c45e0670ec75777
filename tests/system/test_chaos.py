"""patchflow chaos against the built server: every fault found, named by patchflow diagnose, and survived."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.request

import grpc
import harness
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

CONFIG = harness.TOP / "deploy" / "chaos.yaml"
MAX_RECOVERY_S = 7  # 5 s, and a model that is small and warmed up within 2 s on two busy cores.
ROW = re.compile(r"\| (\S+) \| (\S+) \| ([\d.]+) \| ([\d.]+) \| (.+) \| (.+) \|")


def chaos(*arguments: str, config: pathlib.Path = CONFIG, timeout_s: float = 900) -> subprocess.CompletedProcess:
    command = [harness.BIN / "patchflow", "chaos", "--config", config, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def rows(table: str) -> dict[tuple[str, str], tuple]:
    found = [ROW.fullmatch(line) for line in table.splitlines()]
    return {(row[1], row[2]): row.groups()[2:] for row in found if row and row[1] != "fault"}


def test_faults_of_a_running_image_are_named_and_survived():
    done = chaos("--kinds", "kill,throw,skip,oom,nan", "--places", "step", timeout_s=120)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(done.stdout)
    assert len(table) == 5 and slow_faults(table) == []
    for kind in ("kill", "throw", "skip"):
        assert table[kind, "step"][2] == "same bytes"
    assert table["oom", "step"][2:] == ("ended: GPU_OUT_OF_MEMORY", "out of memory")
    assert table["nan", "step"][2:] == ("ended: NON_FINITE_OUTPUT", "NaN")


def test_nan_in_the_decoding_makes_no_image():
    done = chaos("--kinds", "nan", "--places", "decode", timeout_s=120)
    assert done.returncode == 0 and "ended: NON_FINITE_OUTPUT" in done.stdout, done.stdout + done.stderr


def test_a_worker_that_is_stopped_while_it_loads_is_found_by_its_heartbeat():
    done = chaos("--kinds", "stop", "--places", "load,warm-up", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {place: float(row[0]) for (_, place), row in rows(done.stdout).items()}
    assert len(found) == 2 and max(found.values()) < 2, f"heartbeat_timeout of deploy/chaos.yaml is 1 s: {found}"


def limit_s(kind: str, place: str) -> float:
    """Within which deploy/chaos.yaml finds a fault, on two cores with other work."""
    supervision = yaml.safe_load(CONFIG.read_text())["supervision"]
    seconds = {key: duration_s(value) for key, value in supervision.items()}
    if kind == "kill":
        return 1  # The end of a process is seen at once.
    if kind == "stop":
        return 2  # heartbeat_timeout, and what the heartbeats before it took; nobody may need more than 2 s.
    if kind in ("hang", "skip"):
        # A watchdog counts slowly where the cores are busy, and waits for the other ranks before it gives up.
        first = place in ("load", "warm-up")
        return 1.5 * seconds["first_run_timeout" if first else "phase_timeout"] + 3
    return 2.5  # The worker says it itself, and leaves a black box first.


def duration_s(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m)", text).groups()
    return float(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def slow_faults(table: dict[tuple[str, str], tuple]) -> list[str]:
    """Those found too late, and those from which it took too long to serve again."""
    slow = []
    for (kind, place), (found_s, recovered_s, *_) in table.items():
        if float(found_s) > limit_s(kind, place):
            slow.append(f"{kind} in {place}: found after {found_s} s, not {limit_s(kind, place)} s")
        if float(recovered_s) > MAX_RECOVERY_S:
            slow.append(f"{kind} in {place}: serves again after {recovered_s} s, not {MAX_RECOVERY_S} s")
    return slow


def test_faults_found_or_recovered_from_late_are_told():
    fast = {("kill", "step"): ("0.05", "1.5"), ("hang", "load"): ("6.8", "1.4"), ("stop", "text"): ("1.2", "1.1")}
    assert slow_faults(fast) == []
    late = {
        ("kill", "step"): ("1.2", "1"), ("stop", "load"): ("2.3", "1"), ("hang", "step"): ("9", "1"),
        ("skip", "warm-up"): ("13", "1"), ("nan", "decode"): ("3", "1"), ("oom", "text"): ("1", "8"),
    }  # fmt: skip
    assert len(slow_faults(late)) == len(late)


@pytest.mark.long
def test_every_fault_everywhere_is_named_and_survived():
    done = chaos()
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    table = rows(done.stdout)
    assert len(table) == 38
    assert slow_faults(table) == []


@pytest.mark.parametrize("place,phase", [("warm-up", "warm_up"), ("decode", "decode")])
def test_a_passed_limit_is_counted_by_its_phase(place, phase, tmp_path):
    extra = {
        "chaos": True,
        "supervision": {"load_timeout": "15s", "first_run_timeout": "4s", "phase_timeout": "2s", "back_off": "100ms"},
        "black_box": {"directory": str(tmp_path / "boxes")},
    }
    with harness.Server([harness.Group(harness.BUNDLED)], extra) as server:
        server.wait_ready()
        orders = pathlib.Path(re.search(r'"fault_orders":"([^"]+)"', server.log())[1])
        orders.write_text(f"hang {place} 0")
        if place == "warm-up":
            os.kill(int(re.search(r'"worker started".*"pid":(\d+)', server.log())[1]), signal.SIGKILL)
        pb, _ = harness.api()
        harness.generate(server, pb.GenerateImagesRequest(prompt=pb.Prompt(text="a star")), timeout_s=60)
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=20) as page:
            trips = re.findall(r'patchflow_watchdog_trips_total\{[^}]*phase="(\w+)"\} (\d+)', page.read().decode())
    assert {name: int(count) for name, count in trips if count != "0"} == {phase: 1}, trips


def test_a_job_out_of_memory_is_counted_by_its_group(tmp_path):
    extra = {"chaos": True, "black_box": {"directory": str(tmp_path / "boxes")}}
    with harness.Server([harness.Group(harness.BUNDLED, name="small")], extra) as server:
        server.wait_ready()
        pathlib.Path(re.search(r'"fault_orders":"([^"]+)"', server.log())[1]).write_text("oom step 0")
        pb, _ = harness.api()
        with pytest.raises(grpc.RpcError) as caught:
            harness.generate(server, pb.GenerateImagesRequest(prompt=pb.Prompt(text="a star")), timeout_s=60)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=20) as page:
            assert 'patchflow_gpu_oom_total{group="small"} 1' in page.read().decode().splitlines()


def test_a_configuration_that_does_not_ask_for_chaos_has_none(tmp_path):
    config = {"server": {"listen": "127.0.0.1:0"}, "groups": [{"model": str(harness.BUNDLED), "device": "cpu"}]}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config))
    done = chaos(config=path, timeout_s=60)
    assert done.returncode == 2 and "chaos: true" in done.stderr


def test_a_killed_worker_leaves_a_box_that_diagnose_reads(tmp_path):
    boxes = tmp_path / "boxes"
    extra = {"black_box": {"directory": str(boxes)}}
    with harness.Server([harness.Group(harness.BUNDLED, ranks=2, layout={"tensor": 2})], extra) as server:
        server.wait_ready()
        os.kill(int(re.search(r'"worker started".*"pid":(\d+)', server.log())[1]), signal.SIGSEGV)
        deadline = time.monotonic() + 30
        while not (boxes.exists() and list(boxes.glob("*.json"))):
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
    bundle = tmp_path / "bundle.tar.gz"
    command = [harness.BIN / "patchflow", "diagnose", boxes, "--out", bundle]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cause: crash\n") and "SIGSEGV" in done.stdout
    assert "stack: where the signal came" in next(boxes.glob("*.json")).read_text()
    assert bundle.stat().st_size > 500


def test_a_broken_device_takes_its_group_out_of_service_but_not_the_server(tmp_path):
    worker = tmp_path / "worker"
    worker.write_text("#!/bin/sh\necho 'cuda:0 gives CUDA error 214 (cudaErrorECCUncorrectable)' >&2\nexit 3\n")
    worker.chmod(0o700)
    extra = {"worker_binary": str(worker), "black_box": {"directory": str(tmp_path / "boxes")}}
    with harness.Server([harness.Group(harness.BUNDLED)], extra) as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        deadline = time.monotonic() + 30
        while "a group is given up for its device" not in server.log():
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        time.sleep(1)
        assert server.log().count('"worker started"') == 1 and server.process.poll() is None
        for service, expected in (("readiness", "NOT_SERVING"), ("liveness", "SERVING")):
            request = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(request, timeout=10).status == getattr(health_pb2.HealthCheckResponse, expected)
        pb, _ = harness.api()
        with pytest.raises(grpc.RpcError) as caught:
            harness.generate(server, pb.GenerateImagesRequest(prompt=pb.Prompt(text="a star")), timeout_s=20)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=20) as page:
            metrics = page.read().decode()
        assert re.search(r'patchflow_worker_losses_total\{[^}]*reason="sick_device"[^}]*\} 1', metrics), metrics
        assert re.search(r'patchflow_group_state\{[^}]*state="failed"[^}]*\} 1', metrics)
