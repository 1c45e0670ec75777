"""patchflow-web's /v1 with the openai package, against the real server and a scripted one."""

import asyncio
import base64
import io
import json
import time
import urllib.error
import urllib.request

import grpc
import harness
import openai
import pytest
from PIL import Image
from scripted_service import PIXELS, Script, refusal, serving
from test_web_page import models_answer
from web_program import running


@pytest.fixture(scope="module")
def url(installed, server):
    with running(installed, server.address) as address:
        yield address


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def scripted(installed):
    """Runs a script behind patchflow-web: (client, service)."""
    opened = []

    def start(*entries, flags=(), retries=0):
        server = serving(*entries, models=models_answer())
        address, service = server.__enter__()
        web = running(installed, address, *flags)
        opened.extend([web, server])
        made = openai.OpenAI(base_url=f"{web.__enter__()}/v1", api_key="a-key", max_retries=retries, timeout=60)
        return made, service

    yield start
    for each in opened:
        each.__exit__(None, None, None)


def pixels(b64: str, format: str = "PNG") -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    assert image.format == format
    return image


def test_images_are_those_that_grpc_gives(client, patchflow, server):
    answer = client.images.generate(
        prompt="a red star", n=2, size="256x256", extra_body={"seed": 5, "steps": 3, "guidance": 2.5}
    )
    with patchflow.Client(server.address) as direct:
        expected = direct.generate(
            "a red star", seed=5, steps=3, guidance=2.5, count=2, embed_metadata=True, model="shapes-256"
        )
    assert [base64.b64decode(image.b64_json) for image in answer.data] == [image.data for image in expected.images]
    assert (answer.size, answer.background, answer.output_format) == ("256x256", "opaque", "png")
    assert abs(answer.created - time.time()) < 60 and answer.usage.total_tokens == 0
    facts = answer.to_dict()["patchflow"]
    assert facts["parameters"]["seed"] == 5 and facts["timings"]["total"] > 0
    assert facts["plan_digest"] == expected.accepted.plan_digest


def test_formats_and_quality(client):
    small, large = (
        client.images.generate(prompt="a red star", output_format="jpeg", output_compression=level, quality="low")
        for level in (0, 100)
    )
    assert pixels(small.data[0].b64_json, "JPEG").size == (256, 256)
    assert len(small.data[0].b64_json) < len(large.data[0].b64_json)
    assert small.to_dict()["patchflow"]["parameters"]["steps"] == 10 and small.quality == "low"


def test_an_image_by_url(client):
    answer = client.images.generate(prompt="a red star", response_format="url", extra_body={"steps": 2, "seed": 5})
    with urllib.request.urlopen(answer.data[0].url, timeout=30) as response:
        assert response.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(response.read())) as image:
            assert image.text["seed"] == "5"
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(answer.data[0].url.replace("/0", "/7"), timeout=30)
    assert error.value.code == 404


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["shapes-256"]
    assert client.models.retrieve("shapes-256").owned_by == "patchflow"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-3")


WRONG = {
    "size": ({"size": "100x256"}, "multiple of 16"),
    "n": ({"n": 0}, "greater than or equal to 1"),
    "steps": ({"extra_body": {"steps": 100000}}, "100000"),
    "style": ({"style": "vivid"}, "Unknown parameter"),
    "background": ({"background": "transparent"}, "opaque"),
    "output_compression": ({"output_compression": 101}, "100"),
    "quality": ({"quality": "xhigh"}, "Invalid value"),
    None: ({"extra_body": {"partial_images": 2}}, "stream"),
}


@pytest.mark.parametrize("param", WRONG)
def test_what_is_wrong_is_named(client, param):
    arguments, message = WRONG[param]
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt="a red star", **arguments)
    assert error.value.param == param and message in error.value.message
    assert error.value.type == "invalid_request_error"


def test_errors_have_the_statuses_of_openai(client, url):
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="a red star", model="dall-e-3")
    assert missing.value.code == "model_not_found" and "shapes-256" in missing.value.message
    json_type = "application/json"
    for body, content_type, status in ((b"{", json_type, 400), (b"{}", "text/plain", 415), (b"[]", json_type, 400)):
        request = urllib.request.Request(f"{url}/v1/images/generations", body, {"content-type": content_type})
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=30)
        assert error.value.code == status and json.load(error.value)["error"]["type"] == "invalid_request_error"


def test_refusals_keep_their_code_and_time(scripted):
    entries = [
        refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 2.5),
        refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", 1.0),
        refusal(grpc.StatusCode.INTERNAL, "POISON_REQUEST"),
        refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_UNMEETABLE"),
    ]
    client, _ = scripted(*entries)
    with pytest.raises(openai.RateLimitError) as full:
        client.images.generate(prompt="a star")
    assert full.value.code == "rate_limit_exceeded" and full.value.response.headers["retry-after-ms"] == "2500"
    for status, code in ((503, "draining"), (500, "poison_request"), (504, "deadline_unmeetable")):
        with pytest.raises(openai.InternalServerError) as error:
            client.images.generate(prompt="a star")
        assert (error.value.status_code, error.value.code, error.value.type) == (status, code, "server_error")


def test_their_client_comes_back_when_told(scripted):
    entry = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.4)
    client, service = scripted(entry, lambda script, _: script.all(), retries=2)
    began = time.monotonic()
    answer = client.images.generate(prompt="a star")
    assert time.monotonic() - began >= 0.4 and len(service.streams) == 2
    assert base64.b64decode(answer.data[0].b64_json) == PIXELS


def previewing(script: Script, _):
    yield from script.accepted()
    for step, colour in ((1, "teal"), (2, "orange"), (3, "black")):
        yield from script.steps(step)
        yield from script.preview(step, colour)
    yield from script.image()
    yield from script.completed()


def test_partial_images_are_streamed(scripted):
    client, service = scripted(previewing)
    with client.images.generate(prompt="a star", stream=True, partial_images=2, size="64x48") as stream:
        events = list(stream)
    partial = "image_generation.partial_image"
    assert [event.type for event in events] == [partial, partial, "image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert pixels(events[0].b64_json).getpixel((0, 0)) == (0, 128, 128)
    last = events[-1]
    assert base64.b64decode(last.b64_json) == PIXELS and last.usage.total_tokens == 0 and last.size == "64x64"
    request = service.streams[0][1]
    assert request.stream.preview_every_steps == 2 and request.stream.preview_max_edge == 64


def test_a_stream_of_the_real_server(client):
    with client.images.generate(prompt="a red star", stream=True, n=2, extra_body={"steps": 2}) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert pixels(events[1].b64_json).size == (256, 256)


def test_partial_images_of_the_real_server(client):
    with client.images.generate(
        prompt="a red star", stream=True, partial_images=2, size="256x256", extra_body={"steps": 9, "seed": 5}
    ) as stream:
        *partial, last = list(stream)
    # A busy machine may leave some out.
    assert 1 <= len(partial) <= 2 and last.type == "image_generation.completed"
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    for event in partial:
        picture = pixels(event.b64_json).convert("RGB")
        assert picture.size == (64, 64) and len(picture.getcolors(64 * 64)) > 16


def test_a_stream_is_refused_before_it_begins_and_broken_after(scripted):
    def breaks(script, context):
        yield from script.accepted()
        yield from script.preview(1)
        context.abort_with_status(refusal(grpc.StatusCode.INTERNAL, "NON_FINITE_OUTPUT", message="not finite"))

    full = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1.0)
    client, _ = scripted(full, breaks)
    with pytest.raises(openai.RateLimitError):
        client.images.generate(prompt="a star", stream=True)
    with client.images.generate(prompt="a star", stream=True, partial_images=1) as stream:
        assert next(stream).type == "image_generation.partial_image"
        with pytest.raises(openai.APIError, match="not finite"):
            next(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_stops_the_work(url, server, stream):
    pb, _ = harness.api()
    request_id = f"gone-by-http-{stream}"

    async def run():
        headers = {"Idempotency-Key": request_id}
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            call = client.images.generate(
                prompt="a red star", stream=stream, extra_body={"steps": 200}, extra_headers=headers
            )
            if stream:
                await (await call).close()
            else:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(call, 1.0)

    asyncio.run(run())
    deadline = time.monotonic() + 20
    while True:
        got = server.stub.GetGeneration(pb.GetGenerationRequest(request_id=request_id), timeout=10)
        if got.state not in (pb.STATE_QUEUED, pb.STATE_RUNNING):
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert got.state == pb.STATE_CANCELLED and got.progress.step < 200


def test_a_key_makes_a_repeat_the_same_generation(client):
    headers = {"Idempotency-Key": "same-again"}
    first, second = (
        client.images.generate(prompt="a red star", extra_headers=headers, extra_body={"steps": 2, "seed": 1})
        for _ in range(2)
    )
    assert first.data == second.data and second.to_dict()["patchflow"]["request_id"] == "same-again"
    with pytest.raises(openai.ConflictError):
        client.images.generate(prompt="another", extra_headers=headers)


def test_callers_tokens_are_forwarded_when_asked(scripted):
    client, service = scripted(lambda script, _: script.all(), flags=["--forward-tokens"])
    client.images.generate(prompt="a star")
    assert service.streams[0][2]["authorization"] == "Bearer a-key"
    with pytest.raises(openai.AuthenticationError) as error:
        client.images.generate(prompt="a star", extra_headers={"Authorization": "Basic abc"})
    assert error.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError, match="URL"):
        client.images.generate(prompt="a star", response_format="url")
