"""Who asks whether the server is ready hears of a lost worker at once, and of its return."""

import http.client
import os
import pathlib
import signal
import time

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import harness

# From the blow: a kill is seen at once, a stop by a heartbeat within 2 s; readiness is off within 2 s of either.
OFF_WITHIN_S = {signal.SIGKILL: 2, signal.SIGSTOP: 4}
BACK_WITHIN_S = 20


@pytest.fixture
def server():
    with harness.Server([harness.Group(harness.BUNDLED)]) as running:
        yield running.wait_ready()


def readyz(server) -> int:
    connection = http.client.HTTPConnection(server.metrics_address, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def serving(server) -> bool:
    answer = health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def workers(server) -> set[int]:
    lists = pathlib.Path(f"/proc/{server.process.pid}/task").glob("*/children")
    return {int(pid) for one in lists for pid in one.read_text().split()}


def await_within(limit_s: float, holds):
    until = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < until, f"not within {limit_s} s"
        time.sleep(0.01)


@pytest.mark.parametrize("blow", OFF_WITHIN_S)
def test_readiness_goes_and_comes_with_the_worker(server, blow):
    assert readyz(server) == 200 and serving(server)
    (worker,) = workers(server)
    os.kill(worker, blow)
    await_within(OFF_WITHIN_S[blow], lambda: readyz(server) == 503)
    assert not serving(server)
    await_within(BACK_WITHIN_S, lambda: readyz(server) == 200)
    assert serving(server)
    assert worker not in workers(server)
