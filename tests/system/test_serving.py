"""What a client and an operator see of a whole running server: start, health, discovery, formats, interruption."""

import io
import subprocess
import sys
import time
import urllib.request

import grpc
import harness
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(server, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def request(steps: int = 2, seed: int = 5, **fields):
    pb, _ = harness.api()
    made = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red star"), **fields)
    made.sampling.steps, made.sampling.seed = steps, seed
    return made


def test_health_answers_at_once_and_the_bundled_model_is_soon_ready():
    began = time.monotonic()
    with harness.Server([harness.Group(harness.BUNDLED)]) as server:
        assert health(server, "liveness") == SERVING
        to_health_s = time.monotonic() - began
        assert health(server, "readiness") in (SERVING, NOT_SERVING)
        server.wait_ready()
        to_ready_s = time.monotonic() - began
        assert health(server, "readiness") == SERVING and health(server, "") == SERVING
    print(f"health after {1000 * to_health_s:.0f} ms, ready after {to_ready_s:.1f} s")
    # Bars of 0.2 s and 3 s on an idle machine (bench/start_up.py measures); other tests run beside this one.
    assert to_health_s < 1 and to_ready_s < 15


def test_reflection_lists_the_services(server):
    services = set(ProtoReflectionDescriptorDatabase(server.channel).get_services())
    assert {"patchflow.v1.ImageGenerationService", "grpc.health.v1.Health"} <= services


def test_models_tell_their_limits_and_defaults(server):
    pb, _ = harness.api()
    model = server.stub.GetModel(pb.GetModelRequest(name="shapes-256"), timeout=10).model
    assert model.ready and model.architecture == "PixArtTransformer2DModel"
    assert (model.defaults.width, model.limits.size_multiple, len(model.digest)) == (256, 16, 64)
    assert set(model.schedulers) == {"dpm-solver++", "ddim", "euler"}


FORMATS = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WEBP"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_holds_the_raw_image(server, name):
    pb, _ = harness.api()
    images = {}
    for format_name in ("RAW_RGB8", name):
        asked = request()
        asked.output.format = pb.ImageFormat.Value(f"IMAGE_FORMAT_{format_name}")
        images[format_name] = harness.generate(server, asked).images[0]
    raw = np.frombuffer(images["RAW_RGB8"], np.uint8).reshape(256, 256, 3)
    with Image.open(io.BytesIO(images[name])) as image:
        assert image.format == FORMATS[name]
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - raw)
    assert difference.mean() < (0.001 if name == "PNG" else 6)


def test_parameters_are_embedded_when_asked(server):
    asked = request()
    asked.output.embed_metadata = True
    with Image.open(io.BytesIO(harness.generate(server, asked).images[0])) as image:
        text = " ".join(map(str, image.text.values()))
    assert "a red star" in text and "5" in text


def test_progress_counts_every_step_and_images_come_in_order(server):
    pb, _ = harness.api()
    result = harness.generate(server, request(steps=3, image=pb.ImageSpec(count=2)))
    assert [header.seed for header in result.headers] == [5, 6]
    assert all(0 <= progress.step <= progress.total_steps == 3 for progress in result.progress)
    assert result.images[0] != result.images[1]
    stages = {timing.stage for timing in result.completed.timings}
    assert {"queue", "text_encode", "denoise", "vae_decode", "encode_image", "total"} <= stages


def test_the_same_request_makes_the_same_bytes(server):
    assert harness.generate(server, request()).images == harness.generate(server, request()).images


def test_unary_gives_what_the_stream_gives(server):
    pb, _ = harness.api()
    unary = server.stub.GenerateImagesUnary(pb.GenerateImagesUnaryRequest(generation=request()), timeout=60)
    assert [image.data for image in unary.images] == harness.generate(server, request()).images


def test_validate_only_runs_nothing(server):
    result = harness.generate(server, request(steps=20, validate_only=True))
    assert result.images == [] and result.accepted.cost.steps == 20


def wait_until_idle(server, request_id: str) -> float:
    """Seconds until the generation has ended."""
    pb, _ = harness.api()
    began = time.monotonic()
    while time.monotonic() - began < 30:
        got = server.stub.GetGeneration(pb.GetGenerationRequest(request_id=request_id), timeout=10)
        if got.state not in (pb.STATE_QUEUED, pb.STATE_RUNNING):
            assert got.state == pb.STATE_CANCELLED
            return time.monotonic() - began
        time.sleep(0.01)
    raise TimeoutError(request_id)


def test_a_client_that_goes_away_in_mid_stream_stops_the_work(server):
    pb, _ = harness.api()
    call = server.stub.GenerateImages(request(steps=200, request_id="gone-1"), timeout=120)
    for message in call:
        if message.WhichOneof("event") == "progress" and message.progress.step >= 2:
            step_at_cancel = message.progress.step
            call.cancel()
            break
    wait_until_idle(server, "gone-1")
    reached = server.stub.GetGeneration(pb.GetGenerationRequest(request_id="gone-1"), timeout=10).progress.step
    assert reached < 200 and reached - step_at_cancel < 20
    assert harness.generate(server, request()).completed.attempts == 1


def test_a_generation_can_be_cancelled_by_its_id(server):
    pb, _ = harness.api()
    call = server.stub.GenerateImages(request(steps=200, request_id="stop-1"), timeout=120)
    with pytest.raises(grpc.RpcError) as caught:
        for message in call:
            if message.WhichOneof("event") == "progress" and message.progress.step >= 2:
                server.stub.CancelGeneration(pb.CancelGenerationRequest(request_id="stop-1"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.CANCELLED


def test_a_detached_generation_is_fetched_later(server):
    pb, _ = harness.api()
    asked = request(steps=4, request_id="detached-1")
    asked.scheduling.on_disconnect = pb.DISCONNECT_POLICY_DETACH
    call = server.stub.GenerateImages(asked, timeout=60)
    next(call)
    call.cancel()
    fetched = b""
    for wrapped in server.stub.FetchGeneration(pb.FetchGenerationRequest(request_id="detached-1"), timeout=60):
        if wrapped.message.WhichOneof("event") == "image_chunk":
            fetched += wrapped.message.image_chunk.data
    assert [fetched] == harness.generate(server, request(steps=4)).images


def test_a_deadline_ends_the_work(server):
    with pytest.raises(grpc.RpcError) as caught:
        harness.generate(server, request(steps=200), timeout_s=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert harness.generate(server, request()).completed.attempts == 1


def test_metrics_and_health_are_served_over_http(server):
    harness.generate(server, request())
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as response:
        text = response.read().decode()
    assert "patchflow_" in text and "# HELP" in text
    for path in ("healthz", "readyz"):
        with urllib.request.urlopen(f"http://{server.metrics_address}/{path}", timeout=10) as response:
            assert response.status == 200


def test_the_python_example_draws(server, tmp_path):
    out = tmp_path / "star.png"
    script = harness.TOP / "client" / "examples" / "generate.py"
    command = [sys.executable, script, server.address, "a red star", "--steps", "2", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Image.open(out).size == (256, 256)
    wrong = subprocess.run([*command, "--count", "0"], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 1 and "image.count" in wrong.stderr
