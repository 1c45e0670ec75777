"""The running server against stock diffusers, over gRPC, as RGB bytes: largest difference 2, PSNR at least 50 dB.

Both in float32 on the CPU with the noise of torch.Generator("cpu").manual_seed(seed + image index)."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import diffusers
import harness
import numpy as np
import pytest
import torch



class DpmSolverOfAnyLength(diffusers.DPMSolverMultistepScheduler):
    """The stock one. At one step PixArtAlphaPipeline takes a second result, which only DDIM's step has."""

    def step(self, *args, **kwargs):
        (sample,) = super().step(*args, **kwargs)
        return sample, sample


TINY = ("alpha", "sigma", "conditions", "old_class", "odd_blocks", "fp16_stored", "sharded")
SCHEDULERS = {
    "dpm-solver++": DpmSolverOfAnyLength,
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
}
LONG_PROMPT = "a red circle at the top left and a blue square in the middle and " * 40


@dataclasses.dataclass(frozen=True)
class Case:
    model: str
    prompt: str = "a big red star in the centre on a light blue background"
    negative: str | None = None
    width: int = 256
    height: int = 256
    steps: int = 20
    guidance: float = 4.5
    scheduler: str = "dpm-solver++"
    seed: int = 7
    count: int = 1

    def __str__(self) -> str:
        prompt = "" if self.prompt == Case.prompt else f" {self.prompt[:12]!r}"
        negative = "" if self.negative is None else " negative"
        return (
            f"{self.model} {self.width}x{self.height} {self.scheduler} {self.steps} g{self.guidance}"
            f" n{self.count}{prompt}{negative}"
        )


def tiny(model: str, **changes) -> Case:
    return Case(model, **({"width": 64, "height": 64, "steps": 14} | changes))


CASES = [
    Case("bundled"),
    Case("bundled", steps=14, scheduler="ddim", guidance=7.5, seed=11),
    Case("bundled", steps=15, scheduler="euler", prompt="a small cat on the left, a tree on the right"),
    Case("bundled", steps=2, count=3, seed=2**53 - 3),
    Case("bundled", steps=1, guidance=1.0),
    Case("bundled", steps=4, width=320, height=192, negative="blue, a square"),
    Case("bundled", steps=3, prompt=""),
    Case("bundled", steps=3, prompt="  Une ÉTOILE ROUGE – ΣΑΣ 星 🌟\t\n"),
    Case("bundled", steps=3, prompt=LONG_PROMPT, negative=LONG_PROMPT[::-1]),
    *(tiny(model) for model in TINY),
    *(tiny("alpha", steps=steps, scheduler=name) for steps in (1, 2, 15, 20) for name in SCHEDULERS),
    tiny("sigma", width=96, height=48, guidance=1.0),
    tiny("sigma", prompt=LONG_PROMPT, negative="é"),
    tiny("conditions", width=48, height=112, guidance=7.5),
    tiny("conditions", scheduler="euler", count=3),
    tiny("odd_blocks", scheduler="ddim", width=16, height=16),
    tiny("old_class", scheduler="ddim", guidance=1.0, negative="ignored at one"),
]


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> dict[str, pathlib.Path]:
    out = tmp_path_factory.mktemp("models")
    script = harness.TOP / "tests" / "golden" / "make_tiny_model.py"
    subprocess.run([sys.executable, script, "--pipelines", out], check=True, timeout=300)
    return {"bundled": harness.BUNDLED} | {name: out / name for name in TINY}


@pytest.fixture(scope="module")
def running(directories):
    groups = [harness.Group(path, model_name=name, name=name) for name, path in directories.items()]
    with harness.Server(groups) as server:
        yield server.wait_ready(len(groups))


@pytest.fixture(scope="module")
def pipelines(directories):
    torch.set_num_threads(harness.environment_threads())
    loaded = {}

    def load(name: str):
        if name not in loaded:
            index = json.loads((directories[name] / "model_index.json").read_text())
            kind = getattr(diffusers, index["_class_name"])
            loaded[name] = kind.from_pretrained(directories[name], torch_dtype=torch.float32)
            loaded[name].set_progress_bar_config(disable=True)
        return loaded[name]

    return load


def reference(pipeline, case: Case) -> np.ndarray:
    changes = {"clip_sample": False} if case.scheduler == "ddim" else {}
    pipeline.scheduler = SCHEDULERS[case.scheduler].from_config(pipeline.scheduler.config, **changes)
    images = pipeline(
        case.prompt,
        negative_prompt=case.negative or "",
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        width=case.width,
        height=case.height,
        num_images_per_prompt=case.count,
        generator=[torch.Generator("cpu").manual_seed(case.seed + i) for i in range(case.count)],
        use_resolution_binning=False,
        clean_caption=False,
    ).images
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def ours(server, case: Case) -> np.ndarray:
    pb, _ = harness.api()
    request = pb.GenerateImagesRequest(model=case.model)
    request.prompt.text = case.prompt
    if case.negative is not None:
        request.prompt.negative_text = case.negative
    request.image.width, request.image.height, request.image.count = case.width, case.height, case.count
    sampling = request.sampling
    sampling.steps, sampling.guidance_scale, sampling.scheduler = case.steps, case.guidance, case.scheduler
    sampling.seed = case.seed
    request.output.format = pb.IMAGE_FORMAT_RAW_RGB8
    result = harness.generate(server, request)
    assert [header.seed for header in result.headers] == [case.seed + i for i in range(case.count)]
    shape = (case.count, case.height, case.width, 3)
    return np.frombuffer(b"".join(result.images), np.uint8).reshape(shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_image_is_the_one_that_diffusers_makes(case, running, pipelines):
    expected = reference(pipelines(case.model), case).astype(np.int16)
    difference = np.abs(ours(running, case).astype(np.int16) - expected)
    mse = float((difference.astype(np.float64) ** 2).mean())
    psnr = np.inf if mse == 0 else 10 * np.log10(255**2 / mse)
    print(f"{case}: largest difference {difference.max()}, PSNR {psnr:.1f} dB")
    assert difference.max() <= 2
    assert psnr >= 50
    assert expected.std() > 1, "a flat image proves nothing"
