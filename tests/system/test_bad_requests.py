"""Every wrong request over gRPC gets its code, its reason and the names of the wrong fields, and the server goes on."""

import grpc
import harness
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

MIB = 1 << 20


def details_of(error: grpc.RpcError) -> dict[str, object]:
    """The details of the status, by the name of their type."""
    found = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                kind = getattr(error_details_pb2, detail.type_url.rsplit(".", 1)[1])
                message = kind()
                assert detail.Unpack(message)
                found[kind.DESCRIPTOR.name] = message
    return found


def refused(server, request) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """(code, reason, {wrong field: description})"""
    with pytest.raises(grpc.RpcError) as caught:
        list(server.stub.GenerateImages(request, timeout=30))
    details = details_of(caught.value)
    info = details["ErrorInfo"]
    assert info.domain == "patchflow"
    fields = {v.field: v.description for v in details["BadRequest"].field_violations} if "BadRequest" in details else {}
    return caught.value.code(), info.reason, fields


def request(**fields):
    """A request that is right but for the given fields, named as in the .proto with '__' for '.'."""
    pb, _ = harness.api()
    made = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red star"))
    made.sampling.steps = 1
    for path, value in fields.items():
        *parents, name = path.split("__")
        message = made
        for parent in parents:
            message = getattr(message, parent)
        setattr(message, name, value)
    return made


WRONG = [
    ({"image__width": 0}, "image.width", "INVALID_REQUEST"),
    ({"image__width": 1000}, "image.width", "INVALID_REQUEST"),
    ({"image__height": 100000}, "image.height", "LIMIT_EXCEEDED"),
    ({"image__height": -16}, "image.height", "INVALID_REQUEST"),
    ({"sampling__steps": 0}, "sampling.steps", "INVALID_REQUEST"),
    ({"sampling__steps": 10000}, "sampling.steps", "LIMIT_EXCEEDED"),
    ({"sampling__guidance_scale": float("nan")}, "sampling.guidance_scale", "INVALID_REQUEST"),
    ({"sampling__guidance_scale": float("inf")}, "sampling.guidance_scale", "INVALID_REQUEST"),
    ({"sampling__guidance_scale": -1.0}, "sampling.guidance_scale", "INVALID_REQUEST"),
    ({"sampling__seed": 2**53}, "sampling.seed", "INVALID_REQUEST"),
    ({"sampling__scheduler": "heun"}, "sampling.scheduler", "INVALID_REQUEST"),
    ({"image__count": 0}, "image.count", "INVALID_REQUEST"),
    ({"image__count": 100}, "image.count", "LIMIT_EXCEEDED"),
    ({"prompt__text": "a" * MIB}, "prompt.text", "INVALID_REQUEST"),
    ({"prompt__text": "a\0b"}, "prompt.text", "INVALID_REQUEST"),
    ({"prompt__negative_text": "\0"}, "prompt.negative_text", "INVALID_REQUEST"),
    ({"request_id": "x" * 65}, "request_id", "INVALID_REQUEST"),
    ({"request_id": "a/b"}, "request_id", "INVALID_REQUEST"),
    ({"output__quality": 101}, "output.quality", "INVALID_REQUEST"),
    ({"output__format": 77}, "output.format", "INVALID_REQUEST"),
    ({"stream__max_chunk_bytes": 10}, "stream.max_chunk_bytes", "INVALID_REQUEST"),
    ({"stream__progress_every_steps": -1}, "stream.progress_every_steps", "INVALID_REQUEST"),
]


@pytest.mark.parametrize("fields, field, reason", WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named(server, fields, field, reason):
    code, found_reason, violations = refused(server, request(**fields))
    assert (code, found_reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert list(violations) == [field]
    assert len(violations[field]) < 300


def test_all_wrong_fields_are_in_one_answer(server):
    wrong = request(image__width=1000, image__count=0, sampling__steps=0, sampling__scheduler="heun")
    wrong.sampling.guidance_scale = -1
    wrong.prompt.text = "\0"
    code, reason, violations = refused(server, wrong)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    expected = ["image.count", "image.width", "prompt.text", "sampling.guidance_scale", "sampling.scheduler"]
    assert sorted(violations) == [*expected, "sampling.steps"]


def test_a_message_names_the_value_and_what_is_allowed(server):
    _, _, violations = refused(server, request(image__width=1000))
    assert "1000" in violations["image.width"] and "16" in violations["image.width"]


def test_a_missing_prompt_is_refused(server):
    pb, _ = harness.api()
    _, reason, violations = refused(server, pb.GenerateImagesRequest())
    assert reason == "INVALID_REQUEST" and list(violations) == ["prompt"]


def test_an_unknown_model_is_not_found(server):
    with pytest.raises(grpc.RpcError) as caught:
        list(server.stub.GenerateImages(request(model="pixart-xxl"), timeout=30))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    details = details_of(caught.value)
    assert details["ErrorInfo"].reason == "MODEL_NOT_FOUND"
    assert details["ResourceInfo"].resource_name == "pixart-xxl"


@pytest.mark.parametrize("text", ["", "  ", "🌟 a star 🌟", "Ünïcödé ΣΑΣ 星"])
def test_an_unusual_prompt_is_drawn(server, text):
    result = harness.generate(server, request(prompt__text=text))
    assert len(result.images) == 1 and result.images[0].startswith(b"\x89PNG")


def raw_call(server, method: str, payload: bytes):
    call = server.channel.unary_stream(
        f"/patchflow.v1.ImageGenerationService/{method}", request_serializer=bytes, response_deserializer=bytes
    )
    return list(call(payload, timeout=30))


@pytest.mark.parametrize(
    "payload",
    [b"\x1a\x04\x0a\x02\xff\xfe", b"\xff\xff\xff\xff", b"\x1a\x7f"],
    ids=["invalid UTF-8 in prompt.text", "no message", "a length beyond the end"],
)
@pytest.mark.parametrize("method", ["GenerateImages", "FetchGeneration"])
def test_bytes_that_are_no_message_are_malformed(server, payload, method):
    if method == "FetchGeneration" and payload.startswith(b"\x1a"):
        payload = b"\x0a\x02\xff\xfe"  # Its field 1 is the request_id.
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(server, method, payload)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(caught.value)["ErrorInfo"].reason == "MALFORMED_REQUEST"


def test_an_unknown_generation_is_not_found(server):
    pb, _ = harness.api()
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.GetGeneration(pb.GetGenerationRequest(request_id="never-seen"), timeout=30)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert details_of(caught.value)["ErrorInfo"].reason == "GENERATION_NOT_FOUND"


def test_the_same_id_with_other_content_is_a_conflict(server):
    first = request(request_id="conflict-1", sampling__seed=1)
    harness.generate(server, first)
    code, reason, _ = refused(server, request(request_id="conflict-1", sampling__seed=2))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_CONFLICT")
    assert harness.generate(server, first).images == harness.generate(server, first).images


def test_a_unary_answer_that_could_be_too_large_is_refused(server):
    pb, _ = harness.api()
    generation = request(image__width=1024, image__height=1024, image__count=2)
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.GenerateImagesUnary(pb.GenerateImagesUnaryRequest(generation=generation), timeout=30)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(caught.value)["ErrorInfo"].reason == "LIMIT_EXCEEDED"


def test_a_call_above_the_streams_of_a_connection_waits():
    pb, _ = harness.api()
    with harness.Server([harness.Group(harness.BUNDLED)], {"limits": {"max_streams": 1}}) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        next(watch)
        with pytest.raises(grpc.RpcError) as caught:
            server.stub.ListModels(pb.ListModelsRequest(), timeout=1)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        watch.cancel()
        assert server.stub.ListModels(pb.ListModelsRequest(), timeout=30).models


def test_the_server_still_draws_after_all_of_this(server):
    assert harness.generate(server, request()).completed.attempts == 1
