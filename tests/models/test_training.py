"""Every phase of the training at toy size: some steps, resumed, exported, installed, evaluated."""

import json
import pathlib
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from models.train import run
from models.train.run_directory import NETWORKS, RunDirectory

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 2


def train(phases, out, *more):
    minutes = ",".join("5" for _ in phases.split(","))
    run.main(
        f"--phase {phases} --minutes {minutes} --steps {STEPS} --recipe toy --device cpu"
        f" --processes 1 --out {out}".split()
        + [str(word) for word in more]
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of all phases from nothing."""
    out = tmp_path_factory.mktemp("first")
    torch.set_num_threads(1)
    train("vae,decoder,checker,diffusion", out)
    return out


@pytest.fixture(scope="module")
def second(first, tmp_path_factory):
    """Two of the phases resumed from it."""
    out = tmp_path_factory.mktemp("second")
    train("decoder,diffusion", out, "--resume", first, "--seed", 2)
    return out


def test_every_phase_leaves_its_network_and_its_figures(first):
    progress = RunDirectory(first).progress()
    assert set(progress) == set(run.PHASES)
    assert all(runs[0]["steps"] == STEPS for runs in progress.values())
    for network in NETWORKS:
        stored = load_file(first / f"{network}.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in stored.values())


def test_resumed_phases_go_on_and_the_others_stay(first, second):
    progress = RunDirectory(second).progress()
    assert [len(progress[phase]) for phase in run.PHASES] == [1, 2, 1, 2]
    assert (first / "checker.safetensors").read_bytes() == (
        second / "checker.safetensors"
    ).read_bytes()
    old, new = (load_file(path / "vae.safetensors") for path in (first, second))
    for name, tensor in old.items():
        trained = name.startswith(("decoder.", "post_quant_conv."))
        if not trained:
            assert torch.equal(tensor, new[name]), f"{name} is no part of the decoder"
    assert any(not torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_resumed_weights_start_from_the_old_ones(first, second):
    old, new = (load_file(path / "transformer.safetensors") for path in (first, second))
    moved = [(old[name].float() - new[name].float()).abs().max() for name in old]
    assert 0 < max(moved) < 0.05


def test_phase_without_its_vae_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="vae.safetensors: its phase has not run yet"):
        train("checker", tmp_path)


def test_networks_of_other_sizes_are_refused(first):
    from models.train.networks import make_vae
    from models.train.recipe import FULL

    with pytest.raises(RuntimeError, match="size mismatch"):
        RunDirectory(first).load("vae", make_vae(FULL.networks))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--phase paint --minutes 1", "'paint' is none of"),
        ("--phase vae --minutes 1,2", "as many positive numbers as phases"),
        ("--phase vae --minutes 0", "as many positive numbers as phases"),
        ("--phase vae --minutes soon", "is not numbers"),
    ],
)
def test_wrong_arguments_are_refused(words, complaint, capsys):
    with pytest.raises(SystemExit):
        run.parse([*words.split(), "--out", "nowhere"])
    assert complaint in capsys.readouterr().err


def python(*words):
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def installed(second, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    figures = dict(drawn=dict(steps=7, guidance=4.5), best_guidance=2.5)
    (second / "evaluation.json").write_text(json.dumps(figures))
    done = python("models/install.py", second, "--models", models, "--recipe", "toy")
    assert done.returncode == 0, done.stderr
    return models


def test_installed_model_loads_in_stock_diffusers(installed, second):
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline.from_pretrained(installed / "shapes-256")
    stored = load_file(second / "transformer.safetensors")
    for name, tensor in pipeline.transformer.state_dict().items():
        if name in stored:
            assert torch.equal(tensor.half(), stored[name])
    shards = (installed / "shapes-256" / "transformer").glob("*.safetensors")
    assert len(list(shards)) == 2
    assert json.loads((installed / "training.json").read_text()).keys() == set(run.PHASES)


def test_the_best_guidance_becomes_the_default(installed, first, tmp_path):
    from models.install import write_defaults

    defaults = json.loads((installed / "shapes-256" / "patchflow.json").read_text())
    assert defaults == {"default_guidance_scale": 2.5, "default_steps": 7}
    write_defaults(first, tmp_path)  # a run without figures
    assert not list(tmp_path.iterdir())


def test_evaluation_measures_a_directory_and_a_folder_alike(installed, tmp_path):
    """An untrained model shows nothing; what counts is that every figure is there."""
    figures = tmp_path / "figures.json"
    common = ["--checker", installed / "checker/checker.safetensors", "--checker-width", 8]
    common += ["--device", "cpu", "--json", figures]
    done = python(
        "models/evaluate.py", *common, "--model", installed / "shapes-256", "--prompts", 16,
        "--steps", 2, "--batch", 8, "--vae-scenes", 2, "--sweep", "1,3", "--sweep-prompts", 2,
        "--grid", tmp_path / "grid.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    assert 0 <= report["drawn"]["shown"] <= 1
    assert len(report["not_shown"]) == round(16 * (1 - report["drawn"]["shown"]))
    assert 5 < report["vae"]["psnr_db"] < 30
    assert len(report["grid"]) == 16 and (tmp_path / "grid.png").exists()
    assert report["best_guidance"] in (1, 3)


def test_evaluation_judges_images_of_any_program(tmp_path):
    """Images that were drawn from the scenes themselves are all shown, but in wrong order none."""
    from PIL import Image

    from models import evaluate
    from models.train.render import Renderer

    count = 16
    captions = tmp_path / "captions.txt"
    assert (
        python("models/evaluate.py", "--write-prompts", captions, "--prompts", count).returncode
        == 0
    )
    lines = captions.read_text().splitlines()
    assert len(lines) == count
    pool = evaluate.as_pool(evaluate.judged_scenes(count), "cpu")
    drawn = ((Renderer("cpu")(pool, torch.arange(count)) + 1) * 127.5).round().byte()
    images = tmp_path / "images"
    images.mkdir()
    for number, image in enumerate(drawn.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(images / f"{number:03d}.png")

    def shown():
        done = python("models/evaluate.py", "--images", images, "--captions", captions)
        assert done.returncode == 0, done.stderr
        judged = [line for line in done.stdout.splitlines() if line.startswith("judged: ")]
        return json.loads(judged[0].removeprefix("judged: "))["shown"]

    assert shown() == 1
    captions.write_text("\n".join(lines[1:] + lines[:1]) + "\n")
    assert shown() <= 0.1
    captions.write_text("\n".join(["a dream", *lines[1:]]) + "\n")
    done = python("models/evaluate.py", "--images", images, "--captions", captions)
    assert done.returncode != 0 and "a dream" in done.stderr
