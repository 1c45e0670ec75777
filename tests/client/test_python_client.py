"""The installed patchflow-client, blocking: against a scripted service, and against the real server."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
import time
import typing

import grpc
import harness
import pytest
from google.rpc import error_details_pb2
from PIL import Image as Picture
from scripted_service import PIXELS, refusal, rich_error, serving

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def whole(script, _):
    yield from script.all()


def breaks_after_an_image(script, context):
    yield from script.accepted(2)
    yield from script.image(0)
    yield from script.header(1)
    context.abort_with_status(refusal(UNAVAILABLE, "DRAINING", 0.01))


@pytest.fixture
def quick(patchflow):
    return patchflow.RetryPolicy(first_delay=0.01, longest_delay=0.05)


def kinds(events) -> list[str]:
    return [type(event).__name__ for event in events]


def test_the_wheel_brings_its_own_stubs_and_types(installed):
    program = "import patchflow_client as p, patchflow.v1.image_generation_pb2 as m; print(p.__file__, m.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", program]
    output = subprocess.check_output(command, env=environment, cwd="/", text=True, timeout=60)
    assert output.count(str(installed)) == 2
    assert (installed / "patchflow_client" / "py.typed").exists()
    assert (installed / "patchflow" / "v1" / "image_generation_pb2.pyi").exists()


def test_the_keywords_are_the_fields_of_a_request(patchflow):
    from patchflow_client.request import RequestFields

    fields = {field.name: field.type for field in dataclasses.fields(patchflow.ImageRequest)}
    del fields["prompt"]
    assert {name: hint.__forward_arg__ for name, hint in RequestFields.__annotations__.items()} == fields
    assert not typing.get_type_hints(patchflow.ImageRequest).keys() - fields.keys() - {"prompt"}


def test_events_come_in_the_order_of_the_api(patchflow):
    with serving(whole) as (address, service), patchflow.Client(address) as client:
        with client.stream("a star", steps=4, seed=9, preview_every=2) as generation:
            events = list(generation)
    assert kinds(events) == ["Accepted", *["Progress"] * 4, "Image", "Completed"]
    assert events[-2].data == PIXELS and events[0].request_id == generation.request_id
    (_, request, metadata), = service.calls
    assert request.sampling.seed == 9 and request.stream.preview_every_steps == 2
    assert 290 < request.scheduling.timeout.seconds <= 300 and metadata["user-agent"].startswith("patchflow-python/")


def test_previews_come_as_whole_files(patchflow):
    def previewing(script, _):
        yield from script.accepted()
        yield from script.preview(2)
        yield from script.image()
        yield from script.completed()

    with serving(previewing) as (address, _), patchflow.Client(address) as client:
        _, preview, *_ = client.stream("a star", preview_every=2)
    assert preview.step == 2 and preview.format == patchflow.Format.PNG
    with Picture.open(io.BytesIO(preview.data)) as picture:
        assert picture.size == (16, 16)


def test_what_is_not_given_is_not_sent(patchflow):
    with serving(whole, whole) as (address, service), patchflow.Client(address) as client:
        client.generate("a star")
        client.generate(patchflow.ImageRequest("a star", guidance=1.0), count=1)
    first, second = (call[1] for call in service.calls)
    assert not first.image.ListFields() and [field.name for field, _ in first.sampling.ListFields()] == ["seed"]
    assert second.sampling.guidance_scale == 1.0 and second.image.count == 1
    assert first.request_id != second.request_id and first.sampling.seed != second.sampling.seed


def test_a_value_that_cannot_be_sent_names_its_field(patchflow):
    with patchflow.Client("127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="^steps: .*can't be sent"):
            client.generate("a star", steps=1 << 40)
        with pytest.raises(ValueError, match="^prompt: "):
            client.generate("a \ud800 star")


def test_an_error_says_reason_fields_and_when_to_come_back(patchflow):
    bad = error_details_pb2.BadRequest()
    for field in ("image.width", "sampling.steps"):
        bad.field_violations.add(field=field, description="wrong")
    info = error_details_pb2.ErrorInfo(reason="INVALID_REQUEST", domain="patchflow")
    entries = [
        rich_error(grpc.StatusCode.INVALID_ARGUMENT, "two fields", info, bad),
        refusal(EXHAUSTED, "QUEUE_FULL", 1.5),
    ]
    with serving(*entries) as (address, _), patchflow.Client(address, retry=patchflow.NO_RETRIES) as client:
        with pytest.raises(patchflow.InvalidRequest) as invalid:
            client.generate("a star")
        with pytest.raises(patchflow.Exhausted) as full:
            client.generate("a star")
    assert invalid.value.reason == "INVALID_REQUEST" and invalid.value.field == "image.width"
    assert [each.field for each in invalid.value.violations] == ["image.width", "sampling.steps"]
    assert full.value.retry_after == 1.5 and full.value.metadata == {"capacity": "8"}
    assert "QUEUE_FULL" in str(full.value) and "try again in 1.5 s" in str(full.value)


def test_a_retry_waits_as_long_as_the_server_says(patchflow):
    with serving(refusal(EXHAUSTED, "QUEUE_FULL", 0.3), whole) as (address, service):
        with patchflow.Client(address) as client:
            began = time.monotonic()
            result = client.generate("a star")
    assert time.monotonic() - began >= 0.3 and result.retries == 1
    assert service.calls[0][1] == service.calls[1][1]


@pytest.mark.parametrize(
    "code, reason, after, again",
    [
        (UNAVAILABLE, "ENGINE_RECOVERING", None, True),
        (EXHAUSTED, "RATE_LIMITED", 0.01, True),
        (EXHAUSTED, "GPU_OUT_OF_MEMORY", None, False),
        (grpc.StatusCode.INTERNAL, "POISON_REQUEST", None, False),
        (grpc.StatusCode.INTERNAL, "", None, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNMEETABLE", None, False),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", None, False),
    ],
)
def test_only_what_may_be_retried_is(patchflow, quick, code, reason, after, again):
    status = refusal(code, reason, after) if reason else rich_error(code, "the transport's")
    with serving(status, whole) as (address, service), patchflow.Client(address, retry=quick) as client:
        if again:
            assert client.generate("a star").retries == 1
        else:
            with pytest.raises(patchflow.PatchflowError) as error:
                client.generate("a star")
            assert (error.value.code, error.value.reason) == (code, reason)
    assert len(service.calls) == 1 + again


def test_retries_are_counted_and_stay_within_the_timeout(patchflow, quick):
    busy = refusal(UNAVAILABLE, "STARTING")
    with serving(*[busy] * 9) as (address, service), patchflow.Client(address, retry=quick) as client:
        with pytest.raises(patchflow.Unavailable):
            client.generate("a star")
        assert len(service.calls) == 6
    with serving(refusal(UNAVAILABLE, "STARTING", 30)) as (address, service):
        with patchflow.Client(address) as client:
            began = time.monotonic()
            with pytest.raises(patchflow.Unavailable):
                client.generate("a star", timeout=5)
            assert time.monotonic() - began < 3 and len(service.calls) == 1


def test_a_broken_stream_goes_on_by_the_same_request(patchflow, quick):
    def again(script, _):
        yield from script.all(count=2)

    with serving(breaks_after_an_image, again) as (address, service):
        with patchflow.Client(address, retry=quick) as client:
            events = list(client.stream("a star", count=2))
    assert [call[0] for call in service.calls] == ["GenerateImages"] * 2
    assert service.calls[0][1] == service.calls[1][1]
    assert kinds(events) == ["Accepted", "Image", "Retrying", *["Progress"] * 4, "Image", "Completed"]
    assert [event.index for event in events if isinstance(event, patchflow.Image)] == [0, 1]


def test_a_broken_detached_stream_is_fetched(patchflow, quick):
    def again(script, _):
        yield from script.all(count=2)

    gone = refusal(grpc.StatusCode.NOT_FOUND, "GENERATION_NOT_FOUND")
    with serving(breaks_after_an_image, again, breaks_after_an_image, gone, again) as (address, service):
        with patchflow.Client(address, retry=quick) as client:
            for _ in range(2):
                detach = patchflow.OnDisconnect.DETACH
                assert len(client.generate("a star", count=2, on_disconnect=detach, request_id="d-1").images) == 2
    methods = ["GenerateImages", "FetchGeneration", "GenerateImages", "FetchGeneration", "GenerateImages"]
    assert [call[0] for call in service.calls] == methods
    assert {call[1].request_id for call in service.calls} == {"d-1"}


def test_other_bytes_after_a_retry_are_a_loss(patchflow, quick):
    def other(script, _):
        yield from script.accepted(2)
        yield from script.image(0, PIXELS[::-1])

    with serving(breaks_after_an_image, other) as (address, _), patchflow.Client(address, retry=quick) as client:
        with pytest.raises(patchflow.DataLoss, match="image 0 came again with other bytes"):
            client.generate("a star", count=2)


def test_a_changed_plan_is_not_mixed_with_images_that_came(patchflow, quick):
    changed = refusal(UNAVAILABLE, "PLAN_CHANGED")
    with serving(breaks_after_an_image, changed, whole, changed, whole) as (address, service):
        with patchflow.Client(address, retry=quick) as client:
            with pytest.raises(patchflow.Unavailable):
                client.generate("a star", count=2)
            service.entries.pop(0)
            assert client.generate("a star").retries == 1


BREACHES = {
    "the first message is not Accepted": lambda s: s.steps(1),
    "Accepted comes twice": lambda s: [*s.accepted(), *s.accepted()],
    "ended without Completed": lambda s: [*s.accepted(), *s.image()],
    "Completed after 0 of 1 images": lambda s: [*s.accepted(), *s.completed()],
    "a message after Completed": lambda s: [*s.all(), *s.steps(1)],
    "image 1 begins, image 0 of 1 is next": lambda s: [*s.accepted(), *s.image(1)],
    "image 1 begins within image 0": lambda s: [*s.accepted(2), *s.header(0), *s.header(1)],
    "a chunk of image 0 without its header": lambda s: [*s.accepted(), *s.chunks()],
    "a chunk at offset 300 after 0 bytes": lambda s: [*s.accepted(), *s.header(), *list(s.chunks())[1:]],
    "more than its 10 bytes": lambda s: [*s.accepted(), *s.header(total_bytes=10), *s.chunks()],
    "SHA-256": lambda s: [*s.accepted(), *s.header(sha256=bytes(32)), *s.chunks()],
    "has no bytes": lambda s: [*s.accepted(), *s.header(total_bytes=0)],
    "instead of": lambda s: [*s.accepted(), *type(s)("another").steps(1)],
    "sequence 1 after 1": lambda s: [first := next(iter(s.accepted())), first],
}


@pytest.mark.parametrize("message", BREACHES)
def test_a_stream_that_breaks_the_rules_is_a_loss(patchflow, message):
    with serving(lambda script, _: iter(BREACHES[message](script))) as (address, service):
        with patchflow.Client(address) as client, pytest.raises(patchflow.DataLoss, match=message):
            client.generate("a star")
        assert len(service.calls) == 1


def test_a_wait_for_a_retry_can_be_cancelled(patchflow):
    with serving(refusal(EXHAUSTED, "QUEUE_FULL", 60)) as (address, _), patchflow.Client(address) as client:
        generation = client.stream("a star")
        assert isinstance(next(generation), patchflow.Retrying)
        timer = threading.Timer(0.1, generation.cancel)
        timer.start()
        began = time.monotonic()
        with pytest.raises(patchflow.Cancelled):
            next(generation)
        timer.join()
    assert time.monotonic() - began < 5 and list(generation) == []


def test_a_unary_call_is_retried_too(patchflow, quick):
    answer = harness.api()[0].ListModelsResponse()
    answer.models.add(name="one", ready=True, formats=[1, 77])
    with serving(refusal(UNAVAILABLE, "STARTING", 0.01), answer) as (address, _):
        with patchflow.Client(address, retry=quick) as client:
            (model,) = client.models()
    assert model.name == "one" and model.ready and model.formats == (patchflow.Format.PNG,)


def test_tokens_are_sent_and_not_unencrypted_to_other_machines(patchflow, tmp_path):
    file = tmp_path / "token"
    file.write_text("first-secret\n")
    with serving(whole, whole, whole) as (address, service):
        with patchflow.Client(address, token=patchflow.token_from_file(file)) as client:
            client.generate("a star")
            file.write_text("second-secret")
            client.generate("a star")
            client.generate("a star", token="its-own")
    assert [call[2]["authorization"] for call in service.calls] == [
        "Bearer first-secret", "Bearer second-secret", "Bearer its-own"
    ]
    with pytest.raises(ValueError, match="unencrypted"):
        patchflow.Client("example.com:443", token="secret")
    with pytest.raises(ValueError, match="cert and key"):
        patchflow.Client("example.com:443", tls=patchflow.TLS(cert=file))


def test_the_real_server_draws(patchflow, server):
    with patchflow.Client(server.address) as client:
        with client.stream("a red star", steps=6, seed=5, count=2, embed_metadata=True) as generation:
            events = list(generation)
        images = [event for event in events if isinstance(event, patchflow.Image)]
        assert [image.seed for image in images] == [5, 6]
        for image in images:
            with Picture.open(io.BytesIO(image.data)) as picture:
                assert picture.size == (256, 256) and picture.text["seed"] == str(image.seed)
        again = client.fetch(generation.request_id).result()
        assert [image.data for image in again.images] == [image.data for image in images]
        status = client.status(generation.request_id)
        assert status.state == patchflow.State.SUCCEEDED and status.end_time >= status.create_time
        assert events[-1].timings["total"] > 0
        accepted = client.validate("a red star", steps=30)
        assert accepted.cost.steps == 30 and accepted.parameters.width == 256
        model = client.model(client.models()[0].name)
        assert model.limits.size_multiple == 16 and patchflow.Format.WEBP in model.formats
        with pytest.raises(patchflow.InvalidRequest) as error:
            client.generate("a red star", width=100, steps=0)
        assert {each.field for each in error.value.violations} == {"image.width", "sampling.steps"}
        with pytest.raises(patchflow.NotFound) as missing:
            client.status("never-seen")
        assert missing.value.reason == "GENERATION_NOT_FOUND"


def test_the_real_server_stops_on_cancel(patchflow, server):
    with patchflow.Client(server.address) as client:
        generation = client.stream("a red star", steps=200)
        with pytest.raises(patchflow.Cancelled) as error:
            for event in generation:
                if isinstance(event, patchflow.Progress) and event.step >= 2:
                    assert generation.cancel() in (patchflow.State.RUNNING, patchflow.State.CANCELLED)
        assert error.value.reason == "CANCELLED_BY_REQUEST"
        assert client.cancel("never-seen-either") == patchflow.State.UNKNOWN


def test_a_detached_generation_outlives_its_stream(patchflow, server):
    with patchflow.Client(server.address) as client:
        with client.stream("a red star", steps=8, seed=3, on_disconnect=patchflow.OnDisconnect.DETACH) as generation:
            next(generation)
        images = client.fetch(generation.request_id).result().images
        assert images[0].data == client.generate("a red star", steps=8, seed=3).images[0].data


def test_a_killed_worker_is_a_pause(patchflow):
    with harness.Server([harness.Group(harness.BUNDLED)]) as own, patchflow.Client(own.wait_ready().address) as client:
        undisturbed = client.generate("a red star", steps=20, seed=5)
        attempts = set()
        with client.stream("a red star", steps=20, seed=5) as generation:
            for event in generation:
                if isinstance(event, patchflow.Progress):
                    attempts.add(event.attempt)
                    if event.step == 5 and event.attempt == 1:
                        for worker in workers_of(own.process.pid):
                            os.kill(worker, signal.SIGKILL)
                if isinstance(event, patchflow.Image):
                    image = event
        assert attempts == {1, 2} and image.data == undisturbed.images[0].data


def workers_of(pid: int) -> list[int]:
    output = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(line) for line in output.stdout.split()]
