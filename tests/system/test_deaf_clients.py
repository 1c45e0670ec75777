"""Crowds that open streams and do not read them: nobody else waits for them, and nothing of them stays."""

import contextlib
import json
import sys
import threading
import time

import grpc
import harness
import pytest
from grpc_reflection.v1alpha import reflection_pb2

sys.path.insert(0, str(harness.TOP))

from bench.load.fake_server import FakeServer  # noqa: E402

CROWD = 1000
CONNECTIONS = 4
TOKENS = {name: f"the-token-of-the-{name}-0123" for name in ("crowd", "guest")}
STEP_MS = 20
STEPS = 10
RAW_BYTES = 1024 * 1024 * 3  # Far more than what a connection takes without its client reading.


@pytest.fixture
def serve(tmp_path):
    """Starts a server whose clients are told apart by tokens, with these limits."""
    (tmp_path / "tokens.yaml").write_text(
        json.dumps({"tokens": [{"name": name, "token": token} for name, token in TOKENS.items()]})
    )
    with contextlib.ExitStack() as stack:

        def start(step_ms: float, **limits) -> FakeServer:
            more = {"limits": limits, "security": {"tokens": str(tmp_path / "tokens.yaml")}}
            return stack.enter_context(FakeServer(1, step_ms, more=more))

        yield start


def request(steps: int, size: int = 256, image_format: str = "IMAGE_FORMAT_PNG"):
    pb, _ = harness.api()
    made = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a star"), image=pb.ImageSpec(width=size, height=size))
    made.sampling.steps = steps
    made.output.format = pb.ImageFormat.Value(image_format)
    return made


def metadata(who: str) -> list:
    return [("authorization", f"Bearer {TOKENS[who]}")]


class Crowd:
    """Streams that are open and not read, over a few connections, until the `with` is left."""

    def __init__(self, server: FakeServer, streams: int, asked):
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.bdp_probe", 0),  # Windows stay as they are.
            ("grpc.http2.lookahead_bytes", 65536),
        ]
        self.channels = [grpc.insecure_channel(server.address, options=options) for _ in range(CONNECTIONS)]
        stubs = [harness.api()[1].ImageGenerationServiceStub(channel) for channel in self.channels]
        self.calls = [
            stubs[i % CONNECTIONS].GenerateImages(asked, timeout=300, metadata=metadata("crowd"))
            for i in range(streams)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for channel in self.channels:
            channel.close()


def wait_for(what: str, holds, timeout_s: float = 60):
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.05)


def seconds_of_a_guest(server: FakeServer) -> float:
    """Until a client that reads has its image."""
    began = time.monotonic()
    messages = list(server.stub.GenerateImages(request(STEPS), timeout=60, metadata=metadata("guest")))
    assert messages[-1].WhichOneof("event") == "completed"
    return time.monotonic() - began


def calls_of_the_crowd(server: FakeServer) -> list[dict]:
    lines = server.settled_audit()
    return [line for line in lines if line["event"] == "call" and line["identity"] == "crowd"]


def assert_nothing_is_left(server: FakeServer):
    for name in ("patchflow_streams_open", "patchflow_generations_live", "patchflow_queue_depth"):
        values = server.metric(name)
        assert values and sum(values) == 0, name


@pytest.mark.timeout(240)
def test_a_thousand_idle_streams_delay_nobody_and_leave_nothing(serve):
    server = serve(STEP_MS, max_queue=2 * CROWD, max_queue_work="24h")
    resident_mib = [server.resident_mib()]
    for turn in (1, 2):
        before = sum(server.metric("patchflow_requests_started_total"))
        with Crowd(server, CROWD, request(STEPS)):
            # Those that are served meanwhile end: their small images fit in what the connection takes.
            wait_for("they have come", lambda: sum(server.metric("patchflow_requests_started_total")) == before + CROWD)
            seconds = [seconds_of_a_guest(server) for _ in range(5)]
            resident_mib.append(server.resident_mib())
            assert sum(server.metric("patchflow_queue_depth")) > 0.5 * CROWD, "the crowd was served too fast to tell"
        calls = calls_of_the_crowd(server)
        assert len(calls) == turn * CROWD
        assert {call["code"] for call in calls} <= {"OK", "CANCELLED"}
        assert sum(call["code"] == "CANCELLED" for call in calls) > turn * CROWD / 2
        assert_nothing_is_left(server)
        # The guest waits for one run of the crowd at most, not for 1,000 (200 s).
        assert max(seconds) < 5, seconds
    print(f"guests took {max(seconds):.2f} s at most; front end of {resident_mib} MiB")
    empty, first, second = resident_mib
    assert first - empty < 0.1 * CROWD, "more than 100 KiB a stream"
    assert second - first < 20, "the first crowd left something"


@pytest.mark.timeout(120)
def test_clients_that_read_nothing_of_large_images_are_dropped(serve):
    deaf, kept_bytes = 24, 4 * RAW_BYTES
    server = serve(1, slow_client_timeout="1s", result_bytes=kept_bytes)
    with Crowd(server, deaf, request(1, 1024, "IMAGE_FORMAT_RAW_RGB8")) as crowd:
        wait_for("the first has its image", lambda: sum(server.metric("patchflow_generations_live")) < deaf)
        assert seconds_of_a_guest(server) < 5
        wait_for("all are dropped", lambda: server.metric("patchflow_slow_clients_total") == [deaf])
        calls = calls_of_the_crowd(server)
        assert_nothing_is_left(server)
        with pytest.raises(grpc.RpcError) as dropped:
            list(crowd.calls[0])
    assert dropped.value.code() == grpc.StatusCode.CANCELLED
    assert len(calls) == deaf
    for call in calls:
        assert (call["method"], call["code"], call["reason"]) == ("GenerateImages", "CANCELLED", "CLIENT_CANCELLED")
        assert call["seconds"] > 1 and call["bytes"] < RAW_BYTES
    assert sum(server.metric("patchflow_results_kept_bytes")) <= kept_bytes
    assert seconds_of_a_guest(server) < 5


def open_reflection_streams(channel: grpc.Channel, version: str, streams: int, over: threading.Event) -> list:
    """The status of each, once it is answered or refused; those that are answered stay open until `over`."""

    def questions():
        yield reflection_pb2.ServerReflectionRequest(list_services="*")
        over.wait(60)

    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    codes = []
    for call in [ask(questions(), timeout=30) for _ in range(streams)]:
        try:
            assert next(call).list_services_response.service
            codes.append(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            codes.append(error.code())
    return codes


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_open_reflection_streams_take_few_threads(version):
    with FakeServer() as server, grpc.insecure_channel(server.address) as channel:
        threads = sum(server.metric("process_threads"))
        over = threading.Event()
        codes = open_reflection_streams(channel, version, 100, over)
        assert sum(server.metric("process_threads")) <= threads + 20
        assert harness.generate(server, request(STEPS), timeout_s=5).images
        over.set()
    if version == "v1":
        assert set(codes) == {grpc.StatusCode.OK}
    else:  # gRPC's own: every stream holds a thread.
        assert 0 < codes.count(grpc.StatusCode.OK) < 20
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
