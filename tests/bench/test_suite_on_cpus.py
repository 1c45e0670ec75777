"""bench/run with threads as ranks and a tiny model: every layout of the plan for 2, 4 and 8 GPUs is measured, a run
goes on where another ended, and what was measured is tabled and drawn."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "bench"))
from model import Model, Shape, measured  # noqa: E402
from suite.layout import Layout  # noqa: E402
from suite.plan import layouts_of  # noqa: E402

SIZE_PX = 128
TINY = Shape(blocks=8, width=96)
FLOAT32 = 2  # Times the bytes of bfloat16.


def bench_run(out, *flags):
    command = [sys.executable, TOP / "bench" / "run", out, "--device", "cpu", *flags]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite")
    done = bench_run(out, "--gpus", "8", "--only", f"^({SIZE_PX}px|link)")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def cases_in(folder):
    return json.loads((folder / "summary.json").read_text())["cases"]


def test_every_layout_of_the_plan_is_measured(folder):
    planned = {str(layout) for gpus in (1, 2, 4, 8) for layout in layouts_of(gpus, SIZE_PX)}
    assert len(planned) > 60
    cases = cases_in(folder)
    assert {case["layout"] for case in cases} == planned
    assert all(case["step_ms"] > 0 and case["image_ms"] > 0 and case["speedup"] > 0 for case in cases)


def test_what_is_sent_is_what_the_model_says(folder):
    model = Model(measured({}), TINY)
    for case in cases_in(folder):
        expected = FLOAT32 * model.sent_mb(Layout.parse(case["layout"]), SIZE_PX)
        assert case["sent_mb"] == pytest.approx(expected, rel=1e-6), case["layout"]


def test_synchronous_methods_draw_what_one_rank_does(folder):
    for case in cases_in(folder):
        if case["gpus"] > 1 and not Layout.parse(case["layout"]).is_stale:
            assert case["exact"] or case["psnr_db"] > 100, case["layout"]


def test_a_run_goes_on_where_another_ended(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob(f"{SIZE_PX}px-*.json")}
    lost = folder / f"{SIZE_PX}px-ulysses2-ring4.json"
    lost.unlink()
    done = bench_run(folder, "--gpus", "8", "--only", f"^({SIZE_PX}px|link)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 measured, 0 failed, 0 to do" in done.stdout
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob(f"{SIZE_PX}px-*.json")}
    assert set(after) == set(before)
    assert [name for name in after if after[name] != before[name]] == [lost.name]


def test_the_table_has_every_case_and_the_machine(folder):
    table = (folder / "table.md").read_text()
    processor = [
        line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    assert table.startswith(f"# {processor[0].partition(': ')[2]}")
    for case in cases_in(folder):
        assert f"| {case['gpus']} | on | {case['layout']} |" in table
    assert "## link-8gpus" in table


def test_the_plot_has_every_method(folder, tmp_path):
    out = tmp_path / "plot.svg"
    plot = [sys.executable, TOP / "bench" / "plot.py", "--out", out, "--gpus", "8", f"ours={folder / 'summary.json'}"]
    subprocess.run(plot, check=True, timeout=60)
    names = {e.text for e in xml.etree.ElementTree.parse(out).getroot().iter("{http://www.w3.org/2000/svg}text")}
    methods = {case["method"] for case in cases_in(folder) if case["gpus"] == 8}
    assert len(methods) >= 12
    assert {f"ours, {method}, 8 GPUs" for method in methods} | {"ours, one GPU"} <= names
    subprocess.run([*plot, "--match", "one GPU"], check=True, timeout=60)
    assert len(list(xml.etree.ElementTree.parse(out).getroot().iter("{http://www.w3.org/2000/svg}circle"))) == 1
