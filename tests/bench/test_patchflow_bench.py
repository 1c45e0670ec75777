"""patchflow-bench on CPUs: every command measures, prints its table and writes the same numbers."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
BENCH = TOP / "build" / "bin" / "patchflow-bench"
FAST = ["--device", "cpu", "--repeats", "2", "--warm-up", "1"]


def run(*arguments):
    return subprocess.run([BENCH, *arguments], cwd=TOP, capture_output=True, text=True, timeout=120)


def report(tmp_path, *arguments):
    path = tmp_path / "report.json"
    done = run(*FAST, "--json", str(path), *arguments)
    assert done.returncode == 0, done.stderr
    made = json.loads(path.read_text())
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == len(made["rows"]) + 2, done.stdout
    assert made["machine"]["device"] == "cpu"
    return made


@pytest.mark.parametrize(
    "arguments, measured",
    [
        (["gemm"], "stock"),
        (["attention"], "stock"),
        (["step", "--sizes", "64,128", "--blocks", "1"], "eager_ms"),
        (["step", "--sizes", "64", "--blocks", "1", "--attention", "stock"], "eager_ms"),
        (["step", "--model", "models/shapes-256", "--sizes", "64"], "eager_ms"),
        (["cpu", "--steps", "2", "--size", "64"], "image_ms"),
        (["text"], "ms"),
        (["link", "--ranks", "3", "--sizes-mb", "0.01"], "all-reduce us"),
    ],
)
def test_measures(tmp_path, arguments, measured):
    made = report(tmp_path, *arguments)
    assert made["command"] == arguments[0]
    assert made["rows"]
    assert all(row[measured] > 0 for row in made["rows"])


def test_more_tokens_take_longer(tmp_path):
    rows = report(tmp_path, "step", "--sizes", "64,256", "--blocks", "1")["rows"]
    assert [row["tokens"] for row in rows] == [16, 256]
    assert rows[1]["eager_ms"] > rows[0]["eager_ms"]


@pytest.mark.parametrize(
    "arguments, named",
    [
        ([], "subcommand"),
        (["step", "--sizes", "17"], "17"),
        (["step", "--model", "no/such/folder"], "no/such/folder"),
        (["step", "--fp8", "--sizes", "64", "--blocks", "1"], "float8: CPUs compute in float32 alone"),
        (["precision"], "CPUs compute in float32 alone"),
        (["--device", "tpu", "gemm"], "tpu"),
        (["--json", "/no/such/folder/file", "gemm"], "/no/such/folder/file"),
    ],
)
def test_refuses(arguments, named):
    done = run(*FAST, *arguments)
    assert done.returncode != 0
    assert named in done.stderr + done.stdout


def test_a_gpu_is_not_made_up():
    done = subprocess.run(
        [BENCH, "--device", "cuda", "gemm"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode != 0
    assert "--device" in done.stderr


def test_plots_every_report(tmp_path):
    path = tmp_path / "report.json"
    assert run(*FAST, "--json", str(path), "step", "--sizes", "64,128", "--blocks", "1").returncode == 0
    out = tmp_path / "plot.svg"
    subprocess.run(
        [sys.executable, TOP / "bench" / "plot.py", "--out", out, f"ours={path}", f"again={path}"],
        check=True,
        timeout=60,
    )
    drawn = xml.etree.ElementTree.parse(out).getroot()
    names = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "ours, eager" in names
    assert "again, eager" in names
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) == 4
