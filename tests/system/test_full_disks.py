"""A disk that is stuck or full stalls nothing: what can't be written down is refused, the rest goes on."""

import contextlib
import http.client
import json
import os
import pathlib
import resource
import sqlite3
import sys
import threading
import time

import grpc
import harness
import pytest
from google.rpc import error_details_pb2, status_pb2

sys.path.insert(0, str(harness.TOP))

from bench.load.fake_server import FakeServer  # noqa: E402


def request(request_id: str, steps: int = 2, detached: bool = False):
    pb, _ = harness.api()
    asked = pb.GenerateImagesRequest(request_id=request_id, prompt=pb.Prompt(text="a star"))
    asked.sampling.steps, asked.sampling.seed = steps, 1
    if detached:
        asked.scheduling.on_disconnect = pb.DISCONNECT_POLICY_DETACH
    return asked


def refusal(server, asked) -> tuple[grpc.StatusCode, str, float]:
    """(code, reason, seconds) of a call that must be refused, and told when to come back."""
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        harness.generate(server, asked, timeout_s=20)
    took = time.monotonic() - began
    [packed] = [value for key, value in caught.value.trailing_metadata() if key == "grpc-status-details-bin"]
    reasons, retries = [], []
    for detail in status_pb2.Status.FromString(packed).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        reasons += [info.reason] if detail.Unpack(info) else []
        retries += [retry] if detail.Unpack(retry) else []
    assert len(retries) == 1
    return caught.value.code(), reasons[0], took


def is_kept(server, request_id: str) -> bool:
    try:
        return harness.generate(server, request(request_id, detached=True)) is not None
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        return False


def ready(server) -> bool:
    connection = http.client.HTTPConnection(server.metrics_address, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    finally:
        connection.close()


def until(condition, timeout_s: float = 20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(server, times: int):
    """Calls that leave a line of the audit log each."""
    pb, _ = harness.api()
    for _ in range(times):
        server.stub.ListModels(pb.ListModelsRequest(), timeout=10)


@contextlib.contextmanager
def read_all(fifo: int):
    """What comes out of the FIFO, as lines of JSON, gathered until the end of the `with`."""
    text, over = bytearray(), threading.Event()

    def read():
        while not over.is_set():
            try:
                text.extend(os.read(fifo, 1 << 16))
            except BlockingIOError:
                time.sleep(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    lines: list[dict] = []
    try:
        yield lines
    finally:
        over.set()
        thread.join()
        lines += [json.loads(line) for line in text.splitlines()]


def test_a_stuck_audit_log_turns_new_work_away_and_loses_no_line(tmp_path):
    path = tmp_path / "audit"
    os.mkfifo(path)
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    audit = {"audit": {"file": str(path), "max_delay": "300ms"}}
    try:
        with FakeServer(1, 100, more=audit) as server:
            until(lambda: ready(server))
            running = server.stub.GenerateImages(request("running", 25), timeout=60)
            next(running)
            began = time.monotonic()
            ask(server, 600)  # More than a pipe holds.
            assert time.monotonic() - began < 5, "calls waited for the log"
            until(lambda: not ready(server))
            assert sum(server.metric("patchflow_audit_behind")) == 1
            code, reason, took = refusal(server, request("refused"))
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE") and took < 1
            kinds = [message.WhichOneof("event") for message in running]
            assert kinds[-1] == "completed", "what was accepted goes on"
            with read_all(fifo) as lines:
                until(lambda: ready(server))
                harness.generate(server, request("again"))
                until(lambda: sum(server.metric("patchflow_audit_waiting_lines")) == 0)
                time.sleep(0.1)
            assert sum(server.metric("patchflow_audit_lost_lines_total")) == 0
    finally:
        os.close(fifo)
    calls = [line["method"] for line in lines if line["event"] == "call"]
    assert calls.count("ListModels") == 600 and calls.count("GenerateImages") == 3
    generations = {line["request_id"]: line["code"] for line in lines if line["event"] == "generation"}
    assert generations == {"running": "OK", "again": "OK"}


def test_a_full_audit_log_goes_on_where_it_stopped():
    with FakeServer(1, 1, more={}) as server:
        path = pathlib.Path(server.path / "audit.jsonl")
        ask(server, 5)
        until(lambda: path.exists() and len(path.read_text().splitlines()) == 5)
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, hard))
        ask(server, 50)
        until(lambda: not ready(server))
        assert refusal(server, request("refused"))[1] == "AUDIT_UNAVAILABLE"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        until(lambda: ready(server))
        until(lambda: sum(server.metric("patchflow_audit_waiting_lines")) == 0)
        calls = [json.loads(line)["method"] for line in path.read_text().splitlines()]
        assert calls.count("ListModels") == 55 and calls.count("GenerateImages") == 1
        harness.generate(server, request("again"))


def test_a_stuck_store_holds_up_nothing_but_what_it_must_keep(tmp_path):
    store = {"store": {"directory": str(tmp_path / "store"), "max_wait": "500ms"}}
    with FakeServer(1, 1, more=store) as server:
        harness.generate(server, request("before", detached=True))
        holder = sqlite3.connect(tmp_path / "store" / "generations.sqlite", isolation_level=None)
        until(lambda: sum(server.metric("patchflow_store_generations")) == 1)
        time.sleep(0.3)  # So that the end is written too.
        holder.execute("BEGIN IMMEDIATE")
        waiting = [
            server.stub.GenerateImages(request(f"waiting-{i}", detached=True), timeout=30) for i in range(20)
        ]
        longest = 0
        for i in range(100):
            began = time.monotonic()
            harness.generate(server, request(f"other-{i}"))
            longest = max(longest, time.monotonic() - began)
        assert longest < 0.4, "a request that is not stored waited for the store"
        for call in waiting:
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        code, reason, took = refusal(server, request("late", detached=True))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED") and took < 0.4
        assert ready(server)
        holder.execute("ROLLBACK")
        holder.close()
        until(lambda: is_kept(server, "after"), 5)
        until(lambda: sum(server.metric("patchflow_store_generations")) == 2)  # Of what was refused nothing stays.


def test_a_full_store_refuses_what_it_must_keep_until_there_is_room(tmp_path):
    with FakeServer(1, 1, more={"store": {"directory": str(tmp_path / "store")}}) as server:
        harness.generate(server, request("before", detached=True))
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, hard))
        assert refusal(server, request("full", detached=True))[:2] == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
        assert sum(server.metric("patchflow_store_failures_total")) >= 1
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        harness.generate(server, request("full", detached=True))
