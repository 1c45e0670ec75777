"""A group whose workers are elsewhere, and one of their GPUs is broken: out of service until an operator resumes it."""

import concurrent.futures
import importlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
import harness
import pytest


@pytest.fixture(scope="module")
def worker_api():
    out = tempfile.mkdtemp(prefix="patchflow-worker-stubs-")
    harness.api()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{harness.TOP / 'proto'}", f"--python_out={out}",
               f"--grpc_python_out={out}", "patchflow/worker/v1/worker.proto"]
    subprocess.run(command, check=True)
    sys.path.insert(0, out)  # Where `patchflow`, a namespace, is found as well.
    importlib.invalidate_caches()
    return (importlib.import_module("patchflow.worker.v1.worker_pb2"),
            importlib.import_module("patchflow.worker.v1.worker_pb2_grpc"))


class Worker:
    """Says what a worker says, and makes no images. A new one on the same port is the old one, started again."""

    def __init__(self, api, port: int = 0):
        pb, pb_grpc = api
        self.pb, self.fault, self.changed = pb, None, threading.Condition()
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        servicer = pb_grpc.WorkerServiceServicer()
        servicer.Describe, servicer.Watch = self.describe, self.watch
        pb_grpc.add_WorkerServiceServicer_to_server(servicer, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def describe(self, _request, _context):
        described = self.pb.DescribeResponse(state=self.pb.WORKER_STATE_READY, plan_digest="plan", layout="serial", ranks=1)
        described.model.ready = True
        described.model.dtype = "bfloat16"
        return described

    def watch(self, request, context):
        while context.is_active():
            with self.changed:
                fault = self.fault
                beat = self.pb.WatchResponse(state=self.pb.WORKER_STATE_READY, ranks=[self.pb.RankStatus(device="fake")])
                if fault:
                    beat.state, beat.failure = self.pb.WORKER_STATE_FAILED, "a rank failed"
                    beat.device_fault.CopyFrom(fault)
                yield beat
                self.changed.wait_for(lambda: self.fault is not fault, request.interval.ToTimedelta().total_seconds())

    def sicken(self, **fault):
        with self.changed:
            self.fault = self.pb.DeviceFault(**fault)
            self.changed.notify_all()

    def stop(self):
        with self.changed:
            self.changed.notify_all()
        self.server.stop(0).wait()


def state_of(server: harness.Server) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=20) as page:
        text = page.read().decode()
    return re.search(r'patchflow_group_state\{group="[^"]*",state="(\w+)"\} 1', text)[1]


def wait_state(server: harness.Server, state: str, within_s: float = 20):
    deadline = time.monotonic() + within_s
    while state_of(server) != state:
        assert time.monotonic() < deadline, f"{state_of(server)}, not {state}:\n{server.log()}"
        time.sleep(0.05)


def admin(server: harness.Server, *words: str) -> str:
    address = re.search(r'"admin":"([^"]+)"', server.log())[1]
    command = [harness.BIN / "patchflow", "admin", "--admin", address, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def test_a_sick_gpu_of_a_remote_worker_keeps_its_group_out_of_service_until_it_is_resumed(worker_api, tmp_path):
    worker = Worker(worker_api)
    extra = {
        "server": {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "groups": [{"name": "far", "model_name": "shapes", "workers": [f"127.0.0.1:{worker.port}"]}],
        "black_box": {"directory": str(tmp_path / "boxes")},
    }
    try:
        with harness.Server([], extra) as server:
            wait_state(server, "serving")
            worker.sicken(kind=worker.pb.DEVICE_FAULT_KIND_XID, code=79, device="0000:1B:00.0",
                          text="0000:1B:00.0: Xid 79: it is broken")
            began = time.monotonic()
            wait_state(server, "failed")
            assert time.monotonic() - began < 2
            assert "a device of the group is broken: 0000:1B:00.0: Xid 79" in admin(server, "--json", "workers")
            worker.stop()  # And whoever keeps it starts it again on the same device.
            worker = Worker(worker_api, worker.port)
            time.sleep(2)
            assert state_of(server) == "failed" and server.process.poll() is None
            admin(server, "drain")
            admin(server, "resume")
            wait_state(server, "serving")
            assert "a group is resumed" in server.log()
    finally:
        worker.stop()
