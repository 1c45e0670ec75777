"""From a caption file to scores and to the report, through the built server. Few images, few steps."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import harness
import numpy as np
import pytest

from bench.quality import errors, pack, plan, run_comparison, score, serving, shards
from models import evaluate

STEPS = 2


def client(*arguments, **options):
    return subprocess.run(
        [harness.BIN / "patchflow", "generate", *map(str, arguments)], capture_output=True, text=True, **options
    )


def program(module, *arguments):
    return subprocess.run(
        [sys.executable, module.__file__, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """Four judged prompts, as Karpathy's file has them, and as plain text."""
    folder = tmp_path_factory.mktemp("captions")
    texts = [scene.caption for scene in evaluate.judged_scenes(4)]
    images = [dict(sentences=[dict(raw=t, tokens=t.split())], cocoid=i) for i, t in enumerate(texts)]
    (folder / "dataset_coco.json").write_text(json.dumps(dict(images=images, dataset="coco")))
    (folder / "captions.txt").write_text("".join(text + "\n" for text in texts))
    return folder


def test_captions_become_images_an_npz_and_scores(server, captions, tmp_path):
    asked = ("--server", server.address, "--captions", captions / "dataset_coco.json", "--steps", STEPS)
    drawn = tmp_path / "drawn"
    for part in ("1/2", "2/2"):
        done = client(*asked, "--out", f"{drawn}/", "--part", part)
        assert done.returncode == 0, done.stderr
        assert "2 drawn, 0 there before, 0 failed" in done.stdout
    assert sorted(file.name for file in drawn.iterdir()) == [
        *(f"{number:05d}.png" for number in range(4)), "generation.json",
    ]  # fmt: skip
    first = (drawn / "00000.png").read_bytes()
    (drawn / "00000.png").unlink()
    assert "1 drawn, 3 there before" in client(*asked, "--out", f"{drawn}/").stdout
    assert (drawn / "00000.png").read_bytes() == first
    assert client(*asked[:-1], STEPS + 1, "--out", f"{drawn}/").returncode == 2

    packed = program(pack, drawn, tmp_path / "drawn.npz")
    assert packed.stdout == f"{tmp_path}/drawn.npz: arr_0 uint8 [4, 256, 256, 3]\n", packed.stderr
    scored = program(
        score, tmp_path / "drawn.npz", "--reference", drawn, "--paired", drawn, "--captions",
        captions / "captions.txt", "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["fid"] == pytest.approx(0, abs=1e-4)
    assert (found["precision"], found["psnr_db"]) == (1, 100)


def test_bad_caption_files_are_named(captions, tmp_path):
    (tmp_path / "broken.json").write_text('{"images": [')
    for name, words in (("broken.json", "parse error at line 1"), ("absent.json", "can't be read")):
        done = client("--captions", tmp_path / name, "--out", f"{tmp_path}/out/")
        assert done.returncode == 2
        assert f"{tmp_path / name}: {words}" in done.stderr


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """compare(arguments): runs run_comparison in this process; (status, folder). Images of 64 px."""
    made = [
        dict(name="serial", prompts=8, steps=STEPS, kind="baseline"),
        dict(name="serial, 1 step", prompts=4, steps=1, kind="fewer steps"),
        dict(name="ulysses 2", prompts=4, steps=STEPS, ranks=2, layout=dict(ulysses=2)),
    ]
    plan_file, out = tmp_path / "plan.json", tmp_path / "comparison"
    plan_file.write_text(json.dumps(dict(guidance=3, shard=4, size="64x64", configurations=made)))

    def run(*arguments):
        command = ["run_comparison", "--out", str(out), "--plan", str(plan_file), "--resamples", "50"]
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        try:
            run_comparison.main()
        except SystemExit as end:
            return end.code, out
        return 0, out

    return run


def test_a_comparison_is_resumed_and_reported(compare, capsys):
    assert compare("--minutes", "0.01")[0] == run_comparison.UNFINISHED
    assert "the same command goes on from here" in capsys.readouterr().out

    status, out = compare("--part", "1/2")
    assert status == 0 and not (out / "report.html").exists()
    serial = out / "results" / "serial" / "0000.npz"
    written = serial.stat().st_mtime_ns
    capsys.readouterr()

    assert compare()[0] == 0
    said = capsys.readouterr().out
    assert said.endswith(f"{out}/report.html\n") and "shard 1/2" not in said
    assert serial.stat().st_mtime_ns == written
    rows = {row["name"]: row for row in json.loads((out / "report.json").read_text())["rows"]}
    assert rows["serial"]["prompts"] == 8 and rows["serial"]["seconds"] > 0
    assert rows["serial, 1 step"]["pairs"]["psnr_db"] < rows["ulysses 2"]["pairs"]["psnr_db_low"]
    assert rows["ulysses 2"]["pairs"]["psnr_db_low"] > 60 and rows["ulysses 2"]["within"]
    assert len(list((out / "kept" / "serial").glob("*.png"))) == 8
    assert not list((out / "images").rglob("*.png"))
    drawn = shards.load(serial)
    assert drawn.features.pool.shape == (4, 128)
    assert np.isfinite(drawn.seconds()).all()

    # Serial's results may come from another machine: its images are drawn again to pair with.
    fewer = out / "results" / "serial-1-step" / "0000.npz"
    before = shards.load(fewer)
    fewer.unlink()
    assert compare("--no-report")[0] == 0
    assert "note:" not in capsys.readouterr().out  # They came out as before.
    np.testing.assert_array_equal(shards.load(fewer).pairs["psnr_db"], before.pairs["psnr_db"])
    np.testing.assert_array_equal(shards.load(fewer).digest, before.digest)


def test_each_gpu_has_a_server_that_draws_its_share(tmp_path, captions):
    """Two servers told of one GPU each; they compute on CPUs here."""
    one = plan.Configuration("serial", 4, 1, "baseline")
    what = plan.Plan((one,), shard=4, size="64x64")
    with serving.Fleet(harness.BUNDLED, one.serving, "cpu", "", gpus=2) as fleet:
        for number, server in enumerate(fleet.servers):
            told = pathlib.Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
            assert f"CUDA_VISIBLE_DEVICES={number}".encode() in told
        text = captions / "captions.txt"
        serving.draw(fleet, what, one, 0, text, tmp_path, 1, serving.Deadline(None))
    assert len(list(tmp_path.glob("*.png"))) == 4
    for number in range(2):
        lines = (tmp_path / f"tries-{number}.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["number"] for line in lines) == [2 * number, 2 * number + 1]
    seconds = serving.stage_seconds(tmp_path, range(4))
    assert min(seconds["denoise"]) > 0 and len(seconds["denoise"]) == 4
    with pytest.raises(errors.InputError, match="2 ranks need as many GPUs, but there are 1"):
        serving.Fleet(harness.BUNDLED, (2, ()), "cpu", "", gpus=1).__enter__()


def test_a_failing_client_is_quoted(tmp_path, captions):
    one = plan.Configuration("serial", 4, 100_000, "baseline")
    with serving.Fleet(harness.BUNDLED, one.serving, "cpu", "", gpus=0) as fleet:
        with pytest.raises(errors.InputError, match="generate ended with 3: .*failed: 0 .*sampling.steps"):
            serving.draw(
                fleet, plan.Plan((one,), shard=4), one, 0, captions / "captions.txt", tmp_path, 1,
                serving.Deadline(None),
            )  # fmt: skip


def test_an_interrupted_client_leaves_whole_images(server, captions, tmp_path):
    command = [harness.BIN / "patchflow", "generate", "--server", server.address, "--steps", "20"]
    command += ["--captions", captions / "captions.txt", "--out", f"{tmp_path}/", "--in-flight", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 6, said
    assert "interrupted; the same command goes on from here" in said
    assert not list(tmp_path.glob("*.part"))
