"""Traces of a whole running server: exported to a real OTLP receiver, and shown by `patchflow trace`."""

import json
import subprocess
import threading
import time
import urllib.request
from concurrent import futures

import grpc
import harness
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SPAN = "patchflow."


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span it is sent, by trace id."""

    def __init__(self):
        self.changed = threading.Condition()
        self.spans: dict[str, list] = {}
        self.resources = []
        self.grpc = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.grpc)
        self.port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.grpc.start()

    def Export(self, request, context):
        with self.changed:
            for resource in request.resource_spans:
                self.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    self.spans.setdefault(span.trace_id.hex(), []).append(span)
            self.changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, trace_id: str) -> list:
        with self.changed:
            assert self.changed.wait_for(lambda: trace_id in self.spans, timeout=20), "no trace came"
            return self.spans[trace_id]


@pytest.fixture(scope="module")
def collector():
    running = Collector()
    yield running
    running.grpc.stop(0).wait(5)


@pytest.fixture(scope="module")
def traced(collector):
    """Two ranks that split the tokens, and a collector."""
    group = harness.Group(harness.BUNDLED, ranks=2, layout={"ulysses": 2})
    extra = {"tracing": {"otlp": f"127.0.0.1:{collector.port}", "service_name": "patchflow-test"}}
    with harness.Server([group], extra) as server:
        yield server.wait_ready()


def draw(server, request_id: str, traceparent: str = "", steps: int = 3, count: int = 1):
    pb, _ = harness.api()
    request = pb.GenerateImagesRequest(request_id=request_id, prompt=pb.Prompt(text="a red star"))
    request.sampling.steps, request.sampling.seed, request.image.count = steps, 5, count
    metadata = [("traceparent", traceparent)] if traceparent else []
    assert list(server.stub.GenerateImages(request, timeout=120, metadata=metadata))[-1].HasField("completed")


def attributes(span) -> dict[str, str]:
    return {a.key.removeprefix(SPAN): a.value.string_value for a in span.attributes}


def test_spans_of_the_callers_trace_reach_the_collector(traced, collector):
    draw(traced, "otlp-1", f"00-{TRACE_ID}-{CALLER}-01")
    spans = collector.wait_for(TRACE_ID)
    assert {"service.name": "patchflow-test"}.items() <= collector.resources[-1].items()
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans) and all(len(span_id) == 8 for span_id in by_id)

    roots = [span for span in spans if span.parent_span_id not in by_id]
    assert [root.name for root in roots] == ["patchflow.generate"]
    assert roots[0].parent_span_id.hex() == CALLER and roots[0].kind == roots[0].SPAN_KIND_SERVER
    for span in spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        if span is not roots[0]:
            parent = by_id[span.parent_span_id]
            assert parent.start_time_unix_nano <= span.start_time_unix_nano, span.name
            assert span.end_time_unix_nano <= parent.end_time_unix_nano, span.name
    assert abs(roots[0].end_time_unix_nano / 1e9 - time.time()) < 60

    parents = {(span.name, by_id[span.parent_span_id].name) for span in spans if span is not roots[0]}
    assert parents == {
        (SPAN + child, SPAN + parent)
        for parent, children in {
            "generate": ["admission", "queue", "run", "send"],
            "run": ["rank", "encode"],
            "rank": ["text", "steps", "decode"],
        }.items()
        for child in children
    }
    ranks = [span for span in spans if span.name == "patchflow.rank"]
    assert sorted(attributes(span)["rank"] for span in ranks) == ["0", "1"]
    for steps in (span for span in spans if span.name == "patchflow.steps"):
        assert [event.attributes[0].value.int_value for event in steps.events] == [1, 2, 3]
        times = [event.time_unix_nano for event in steps.events]
        assert times == sorted(times)
        assert steps.start_time_unix_nano < times[0] and times[-1] <= steps.end_time_unix_nano


def test_a_caller_that_does_not_sample_is_not_exported(traced, collector):
    unsampled, sampled = "1" * 32, "2" * 32
    draw(traced, "otlp-2", f"00-{unsampled}-{CALLER}-00", steps=1)
    draw(traced, "otlp-3", f"00-{sampled}-{CALLER}-01", steps=1)
    collector.wait_for(sampled)
    assert unsampled not in collector.spans


def test_the_export_is_counted(traced, collector):
    draw(traced, "otlp-4", f"00-{'3' * 32}-{CALLER}-01", steps=1)
    collector.wait_for("3" * 32)
    deadline = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(f"http://{traced.metrics_address}/metrics", timeout=10) as response:
            samples = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
        if float(samples["patchflow_traces_exported_total"]) >= 1 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert float(samples["patchflow_traces_exported_total"]) >= 1
    assert float(samples['patchflow_traces_dropped_total{reason="queue_full"}']) == 0


def test_the_time_that_ranks_wait_for_each_other_is_counted(traced):
    draw(traced, "waited-1")
    deadline = time.monotonic() + 10
    waited = {}
    while time.monotonic() < deadline and not (waited and min(waited.values()) > 0):
        with urllib.request.urlopen(f"http://{traced.metrics_address}/metrics", timeout=10) as response:
            samples = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
        waited = {
            name: float(value)
            for name, value in samples.items()
            if name.startswith("patchflow_comm_duration_seconds_total{") and 'op="p2p"' in name
        }
        time.sleep(0.2)
    assert len(waited) == 2 and 0 < min(waited.values()) and max(waited.values()) < 60, waited


def show(server, request_id: str) -> subprocess.CompletedProcess:
    command = [harness.BIN / "patchflow", "trace", request_id, "--server", server.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_patchflow_trace_shows_every_rank_and_step(traced):
    draw(traced, "shown-1", steps=4, count=2)
    time.sleep(0.2)
    shown = show(traced, "shown-1")
    assert shown.returncode == 0, shown.stderr
    events = json.loads(shown.stdout)["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert list(rows.values()) == ["front end", "rank 0", "rank 1", "encoder", "sender"]

    complete = [event for event in events if event["ph"] == "X"]
    for row in rows:  # Events of a row are nested or apart: no one crosses another's end.
        stack = []
        for event in sorted((e for e in complete if e["tid"] == row), key=lambda e: (e["ts"], -e["dur"])):
            begin, end = event["ts"], event["ts"] + event["dur"]
            while stack and stack[-1] <= begin + 1e-3:
                stack.pop()
            assert not stack or end <= stack[-1] + 1e-3, event
            stack.append(end)
    for rank in (0, 1):
        names = [event["name"] for event in complete if rows[event["tid"]] == f"rank {rank}"]
        once = ["text", "steps", "step 1", "step 2", "step 3", "step 4", "decode"]
        assert sorted(names) == sorted(["image 0", "image 1", *once, *once])
    front = [event["name"] for event in complete if rows[event["tid"]] == "front end"]
    assert sorted(front) == ["admission", "generate", "queue", "run"]
    assert sorted(e["name"] for e in complete if rows[e["tid"]] == "encoder") == ["encode image 0", "encode image 1"]


class GroupOfProcesses(harness.Group):
    def config(self) -> dict:
        return super().config() | {"processes": self.ranks}


def test_a_group_of_several_workers_shows_the_ranks_of_all():
    with harness.Server([GroupOfProcesses(harness.BUNDLED, ranks=2, layout={"ulysses": 2})]) as server:
        server.wait_ready()
        draw(server, "several-1", steps=2)
        time.sleep(0.2)
        events = json.loads(show(server, "several-1").stdout)["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    complete = [event for event in events if event["ph"] == "X"]
    decoded = [event for event in complete if event["name"] == "decode"]
    assert sorted(rows[event["tid"]] for event in decoded) == ["rank 0", "rank 1"]
    [run] = [event for event in complete if event["name"] == "run"]
    assert all(run["ts"] <= event["ts"] <= run["ts"] + run["dur"] for event in decoded)
    # They decode together, and one clock is theirs.
    first, second = sorted(decoded, key=lambda event: event["ts"])
    assert second["ts"] < first["ts"] + first["dur"]


def test_patchflow_trace_says_what_is_not_known(traced):
    shown = show(traced, "never-seen")
    assert shown.returncode != 0 and "GENERATION_NOT_FOUND" in shown.stderr


def test_a_collector_that_is_not_there_costs_no_request(traced):
    extra = {"tracing": {"otlp": "127.0.0.1:1"}}
    with harness.Server([harness.Group(harness.BUNDLED)], extra) as server:
        server.wait_ready()
        for i in range(3):
            draw(server, f"lost-{i}", steps=1)
        assert show(server, "lost-2").returncode == 0


def worker_health(address: str, service: str) -> int:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60, wait_for_ready=True).status


def test_a_worker_that_stands_alone_answers_probes(tmp_path):
    address = f"unix:{tmp_path}/worker"
    command = [harness.BIN / "patchflow-worker", "--model", harness.BUNDLED, "--device", "cpu", "--ranks", "1"]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen([*command, "--socket", f"{tmp_path}/worker"], stderr=log)
    try:
        assert worker_health(address, "liveness") == 1
        deadline = time.monotonic() + 60
        while worker_health(address, "readiness") != 1:
            assert time.monotonic() < deadline and worker.poll() is None
            time.sleep(0.05)
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        worker.kill()
