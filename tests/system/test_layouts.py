"""Layouts over gRPC, ranks as threads on CPUs: synchronous ones make the bytes of one rank within 1, stale ones come close."""

import harness
import numpy as np
import pytest

SYNCHRONOUS = {
    "tensor": (2, {"tensor": 2}),
    "ulysses-ring": (4, {"ulysses": 2, "ring": 2}),
    "guidance-tensor": (4, {"guidance": 2, "tensor": 2}),
}
STALE = {
    "pipefusion": (2, {"pipefusion": 2, "patches": 4, "warmup_steps": 1}),
    "blocks": (2, {"pipefusion": 2, "patches": 2, "warmup_steps": 2, "blocks": [3, 5]}),
    "distrifusion": (2, {"distrifusion": 2, "warmup_steps": 1}),
    "mixed": (4, {"pipefusion": 2, "patches": 2, "warmup_steps": 1, "ulysses": 2}),
}
STEPS = 10


@pytest.fixture(scope="module")
def running():
    layouts = {"serial": (1, {})} | SYNCHRONOUS | STALE
    groups = [
        harness.Group(harness.BUNDLED, model_name=name, name=name, ranks=ranks, layout=layout)
        for name, (ranks, layout) in layouts.items()
    ]
    with harness.Server(groups) as server:
        yield server.wait_ready(len(groups))


def draw(server, model: str) -> np.ndarray:
    pb, _ = harness.api()
    request = pb.GenerateImagesRequest(model=model, prompt=pb.Prompt(text="a red circle above a cat on a light blue background"))
    request.sampling.steps, request.sampling.seed, request.sampling.guidance_scale = STEPS, 3, 4.5
    request.output.format = pb.IMAGE_FORMAT_RAW_RGB8
    result = harness.generate(server, request)
    return np.frombuffer(result.images[0], np.uint8).astype(np.int16)


@pytest.fixture(scope="module")
def serial(running) -> np.ndarray:
    return draw(running, "serial")


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_synchronous_layout_makes_the_image_of_one_rank(running, serial, name):
    assert np.abs(draw(running, name) - serial).max() <= 1


@pytest.mark.parametrize("name", STALE)
def test_a_stale_layout_makes_nearly_the_image_of_one_rank(running, serial, name):
    image = draw(running, name)
    psnr_db = 10 * np.log10(255**2 / np.square((image - serial).astype(np.float64)).mean())
    print(f"{name}: {psnr_db:.1f} dB")
    assert 20 <= psnr_db < 90, "the very bytes of one rank would mean that nothing is stale"


def test_a_layout_says_what_it_is(running):
    pb, _ = harness.api()
    model = running.stub.GetModel(pb.GetModelRequest(name="mixed"), timeout=10).model
    assert list(model.layouts) == ["pipefusion=2,patches=2,warmup_steps=1,ulysses=2"]


def test_a_layout_that_the_model_cannot_take_is_refused_in_words(tmp_path):
    from test_start_up import config_of, run_server

    config = config_of(harness.BUNDLED)
    config["groups"][0] |= {"ranks": 3, "layout": {"ulysses": 3}}
    code, output = run_server(config, tmp_path)
    assert code == 1 and "ulysses" in output and "heads" in output
