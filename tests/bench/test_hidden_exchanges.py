"""bench-hidden-exchanges on CPUs, where ranks are threads: every kind of layout, and what it refuses."""

import json
import pathlib
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BENCH = TOP / "build" / "bin" / "bench-hidden-exchanges"
SMALL = ["--device", "cpu", "--sizes", "64,128", "--blocks", "2", "--heads", "6", "--head-size", "8", "--rounds", "2",
         "--repeats", "3", "--warm-up", "1"]
LAYOUTS = ("tensor=2", "ulysses=2", "ring=2", "guidance=2", "distrifusion=2,warmup_steps=1",
           "pipefusion=2,patches=3,warmup_steps=1", "pipefusion=2,patches=2,warmup_steps=1,ulysses=2")


def run(*arguments):
    return subprocess.run([BENCH, *SMALL, *arguments], cwd=TOP, capture_output=True, text=True, timeout=120)


def test_every_kind_of_layout_has_a_row(tmp_path):
    path = tmp_path / "report.json"
    done = run("--layouts", ";".join(LAYOUTS), "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [(row["layout"].split(",")[0], row["size_px"]) for row in rows] == [
        (layout.split(",")[0], size_px) for layout in LAYOUTS for size_px in (64, 128)
    ]
    for row in rows:
        assert len(row["rounds_ms"]) == len(row["silent_rounds_ms"]) == len(row["waited_rounds_ms"]) == 2
        assert row["hidden"] == pytest.approx(max(0, 1 - row["waited_ms"] / row["exchanges_ms"]))
        assert ("cost_ms" in row) == ("ulysses" not in row["layout"])
        assert row["hidden_lowest"] <= row["hidden"] <= row["hidden_highest"] <= 1
        assert row["exchanges_ms"] > 0 and row["sent_mb"] > 0 and row["waited_ms"] >= 0 and row["timed_ms"] > 0
        assert row["phase"] == ("stale" if "warmup_steps" in row["layout"] else "synchronous")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--layouts", "serial"], "one rank exchanges nothing"),
        (["--layouts", "ulysses=5"], "ulysses"),
        (["--rounds", "0"], "--rounds"),
        (["--sizes", "17"], "--sizes"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_refuses(arguments, named):
    done = run(*arguments)
    assert done.returncode != 0
    assert named in done.stderr + done.stdout
