"""score.py: from folders and files to figures, and what it says when it can't."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bench.quality import errors, features, images, networks, pack, prompts, score, scores
from models import evaluate
from tests.quality.tiny import Tiny, script


def run(*arguments):
    return subprocess.run(
        [sys.executable, score.__file__, *map(str, arguments)], capture_output=True, text=True
    )


def scored(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments)])
    return score.score(score.parse())


@pytest.fixture(scope="module")
def perfect():
    scenes = evaluate.judged_scenes(12)
    return scenes, np.concatenate(list(prompts.rendered(scenes)))


def test_a_whole_score_from_the_command_line(save, perfect, tmp_path, rng):
    scenes, pictures = perfect
    noisy = np.clip(pictures + rng.normal(0, 6, pictures.shape), 0, 255).astype(np.uint8)
    pack.pack(images.Folder(save("ref", pictures)), tmp_path / "ref.npz")
    (tmp_path / "captions.txt").write_text("".join(scene.caption + "\n" for scene in scenes))
    done = run(
        save("drawn", noisy), "--reference", tmp_path / "ref.npz", "--paired", tmp_path / "ref",
        "--captions", tmp_path / "captions.txt", "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["network"] == "checker" and found["images"] == 12
    network = networks.CheckerNetwork()
    own, its = features.extract(noisy, network), features.extract(pictures, network)
    for name, output in (("fid", "pool"), ("sfid", "spatial")):
        wanted = scores.frechet_distance(
            scores.statistics(getattr(its, output)), scores.statistics(getattr(own, output))
        )
        assert found[name] == pytest.approx(wanted, rel=1e-3)
    assert found["psnr_db"] == pytest.approx(32.6, abs=1)
    assert found["shown"] == 1
    assert set(score.NEEDS) < set(found) and found["omitted"] == []
    assert f"psnr_db: {found['psnr_db']:.6g}" in done.stdout


def test_scores_without_their_output_are_left_out_by_name(monkeypatch, save, noise, tmp_path):
    network = script(Tiny(spatial=False, logits=False), tmp_path / "tiny.pt")
    drawn, reference = save("drawn", noise(6)), save("ref", noise(5))
    found = scored(monkeypatch, drawn, "--network", network, "--reference", reference)
    assert {"fid", "precision", "recall"} < set(found)
    assert found["omitted"] == [
        "sfid: left out, the network has no spatial",
        "inception_score: left out, the network has no logits",
    ]


def test_ready_statistics_serve_as_reference(monkeypatch, save, noise, tmp_path):
    network, drawn, pictures = script(Tiny(), tmp_path / "tiny.pt"), save("drawn", noise(6)), noise(9)
    whole = scored(monkeypatch, drawn, "--network", network, "--reference", save("ref", pictures))
    its = features.extract(pictures, networks.open_network(network))
    ready = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
    arrays = {}
    for output, names in ready.items():
        found = scores.statistics(getattr(its, output))
        arrays |= dict(zip(names, (found.mean, found.covariance)))
    np.savez(tmp_path / "ready.npz", **arrays)
    found = scored(monkeypatch, drawn, "--network", network, "--reference", tmp_path / "ready.npz")
    assert found["fid"] == pytest.approx(whole["fid"], rel=1e-6)
    assert found["sfid"] == pytest.approx(whole["sfid"], rel=1e-6)
    assert found["omitted"] == [
        f"{name}: left out, the reference is ready statistics" for name in ("precision", "recall")
    ]
    np.savez(tmp_path / "ready.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(errors.InputError, match="--reference: pool has 4 features, the network 3"):
        scored(monkeypatch, drawn, "--network", network, "--reference", tmp_path / "ready.npz")


def test_bad_input_is_named(monkeypatch, save, noise, perfect, tmp_path):
    drawn = save("drawn", noise(6))
    scenes, _ = perfect
    few = tmp_path / "few.txt"
    few.write_text(scenes[0].caption + "\n")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for arguments, words in (
        ([tmp_path / "absent"], f"{tmp_path}/absent: does not exist"),
        ([drawn, "--reference", tmp_path / "absent"], f"{tmp_path}/absent: does not exist"),
        ([drawn, "--reference", tmp_path / "broken.npz"], "broken.npz: can't be read as .npz"),
        ([drawn, "--paired", save("fewer", noise(5))], "fewer: 5 images, but"),
        ([drawn, "--captions", few], f"{few}: 1 captions, but {drawn} has 6 images"),
        ([drawn, "--captions", tmp_path / "no.txt"], "no.txt: can't be read"),
        ([save("three", noise(3))], "3 images are too few, the least is 4"),
    ):
        with pytest.raises(errors.InputError) as raised:
            scored(monkeypatch, *arguments)
        assert words in str(raised.value)
    done = run(tmp_path / "absent")
    assert (done.returncode, done.stderr) == (2, f"score: {tmp_path}/absent: does not exist\n")
