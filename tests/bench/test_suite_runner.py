"""The suite's plan and its runner, against a program that does as it is told."""

import json
import os
import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "bench"))
from model import Model, measured  # noqa: E402
from suite import runner as runner_module  # noqa: E402
from suite.layout import Layout  # noqa: E402
from suite.peers import beside_peers  # noqa: E402
from suite.plan import SIZES_PX, Case, groups, layouts_of, plan  # noqa: E402
from suite.results import Results  # noqa: E402
from suite.runner import Deadline, Outcome, Runner  # noqa: E402
from suite.summary import records_in, write_summary  # noqa: E402
from suite.table import image_ms, markdown, rows_of  # noqa: E402

FAKE = TOP / "tests" / "bench" / "fake_parallel_steps.py"
LINK_NAMES = ("all-reduce", "all-gather", "all-to-all", "to the next, from the one before")
MACHINE = {"device": "NVIDIA H100", "gpus": 4, "libtorch": "2"}
STALE = "pipefusion=4,patches=8,warmup_steps=1"
MODELS = {p2p: Model(measured({}, p2p)) for p2p in (True, False)}
LAYOUTS = ("serial", "ulysses=4", "ring=4", STALE)


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path)


@pytest.fixture
def runner(results, monkeypatch, tmp_path):
    monkeypatch.setattr(runner_module, "program", lambda name: str(FAKE))
    monkeypatch.setattr(runner_module, "GRACE_S", 60.0)
    monkeypatch.setattr(runner_module, "START_S", 0.2)
    monkeypatch.setattr(Runner, "seconds", lambda self, case: 0.3)
    return Runner(results, "cuda", sys.executable, MODELS, tmp_path / "model", say=lambda text: None)


def cases(size_px=1024, p2p=True):
    return [
        Case("layout", (1, size_px, 0, i), Layout.parse(each).ranks, size_px, each, p2p)
        for i, each in enumerate(LAYOUTS)
    ]


def run(runner, group, seconds=30.0):
    outcome = Outcome()
    runner.run(group, Deadline(seconds), outcome)
    return outcome


def statuses(results, group):
    return [results.status(case) for case in group]


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_the_plan_has_every_method_at_every_size(gpus):
    planned = plan(gpus, "cuda", SIZES_PX, (True, False))
    assert len({case.slug for case in planned}) == len(planned)
    assert {case.kind for case in planned} == {"layout", "gemm", "attention", "step", "text", "link", "vae"}
    for size_px in SIZES_PX:
        layouts = [Layout.parse(case.layout) for case in planned if case.size_px == size_px and case.p2p]
        assert Layout() in layouts
        assert max(layout.ranks for layout in layouts) == gpus
        assert all(layout.ranks <= gpus and gpus % layout.ranks == 0 for layout in layouts)
        for method in ("pipefusion", "distrifusion", "ulysses", "ring", "tensor"):
            assert Layout(**{method: gpus}).ranks in {each.ranks for each in layouts if getattr(each, method) == gpus}
    slow = [case for case in planned if not case.p2p and case.kind == "layout"]
    assert {case.size_px for case in slow} == {1024, 2048, 4096}


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_pipefusion_has_n_2n_and_4n_patches_and_one_or_two_warm_up_steps(gpus):
    found = {(each.patches, each.warmup_steps) for each in layouts_of(gpus, 1024) if each.pipefusion == gpus}
    assert found == {(many * gpus, warm_up) for many in (1, 2, 4) for warm_up in (1, 2)}


def test_guidance_goes_with_every_method():
    guided = {str(each) for each in layouts_of(8, 2048) if each.guidance == 2}
    for method in ("ulysses=4", "ring=4", "tensor=4", "ulysses=2,ring=2"):
        assert f"{method},guidance=2" in guided
    assert {"distrifusion=4,warmup_steps=1,guidance=2", "pipefusion=4,patches=8,warmup_steps=1,guidance=2"} <= guided


def test_one_gpu_has_parts_and_no_layouts_of_several():
    planned = plan(1, "cuda", (1024,), (True,))
    assert {case.layout for case in planned if case.kind == "layout"} == {"serial"}
    assert "link" not in {case.kind for case in planned}


def test_peers_are_asked_for_what_they_have():
    planned = [case for case in plan(4, "cuda", SIZES_PX, (True,), peers=True) if case.kind.startswith("peer-")]
    assert {"peer-diffusers", "peer-diffusers-compiled", "peer-xdit-ulysses2-guidance2"} <= {
        case.kind for case in planned
    }
    asked = " ".join(" ".join(case.command) for case in planned)
    assert "tensor" not in asked
    assert "distrifusion" not in asked


def test_layouts_are_written_as_the_engine_writes_them():
    for layout in layouts_of(8, 1024):
        assert Layout.parse(str(layout)) == layout
    assert str(Layout.parse("guidance=2,ulysses=4")) == "ulysses=4,guidance=2"
    assert str(Layout.parse("pipefusion=4")) == "pipefusion=4,patches=8,warmup_steps=1"
    with pytest.raises(ValueError, match="rings"):
        Layout.parse("rings=2")


def test_one_process_measures_a_group(runner, results):
    group = cases()
    outcome = run(runner, group)
    assert (outcome.measured, outcome.failed, outcome.broken) == (4, 0, False)
    assert statuses(results, group) == ["ok"] * 4
    assert [row["phase"] for row in results.load(group[3])["report"]["rows"]] == ["synchronous", "stale"]
    assert len(list(runner.logs.glob("*.log"))) == 1


def test_the_link_is_chosen_by_the_environment(runner, results):
    for p2p, disabled in ((True, None), (False, "1")):
        group = cases(p2p=p2p)
        run(runner, group)
        machine = results.load(group[1])["report"]["machine"]
        assert (machine["nvls"], machine["p2p_disabled"]) == ("0", disabled)


def test_a_layout_that_fails_is_kept_with_its_reason_and_the_others_go_on(runner, results, monkeypatch):
    monkeypatch.setenv("CRASH", "ring=4")
    group = cases()
    outcome = run(runner, group)
    assert (outcome.measured, outcome.failed) == (3, 1)
    assert statuses(results, group) == ["ok", "ok", "failed", "ok"]
    assert "out of memory" in results.load(group[2])["error"]


def test_a_layout_that_hangs_ends_by_its_own_time(runner, results, monkeypatch):
    monkeypatch.setenv("HANG", "ulysses=4")
    monkeypatch.setattr(runner_module, "GRACE_S", 3.0)
    group = cases()
    began = time.monotonic()
    run(runner, group, seconds=60.0)
    assert time.monotonic() - began < 30
    assert statuses(results, group) == ["ok", "timeout", "ok", "ok"]
    assert "not done after" in results.load(group[1])["error"]


def test_a_deadline_ends_the_run_and_blames_no_case(runner, results, monkeypatch):
    monkeypatch.setenv("HANG", "ring=4")
    group = cases()
    began = time.monotonic()
    outcome = run(runner, group, seconds=5.0)
    assert time.monotonic() - began < 20
    assert outcome.failed == 0
    assert statuses(results, group) == ["ok", "ok", "", ""]


BENCH_RUN_WITH_FAKE = f"""
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader("bench_run", {str(TOP / "bench" / "run")!r})
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
loader.exec_module(module)
import suite.runner
suite.runner.program = lambda name: {str(FAKE)!r}
sys.exit(module.main())
"""


def test_a_run_that_is_told_to_end_takes_its_programs_with_it(tmp_path):
    pid_file, out = tmp_path / "pid", tmp_path / "out"
    environment = os.environ | {"HANG": "ulysses=4", "PID_FILE": str(pid_file)}
    command = [sys.executable, "-c", BENCH_RUN_WITH_FAKE, out, "--gpus", "4", "--only", "^1024px-(serial|ulysses4)$"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not (out / "1024px-serial.json").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        said, _ = process.communicate(timeout=40)
    finally:
        process.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert "1 measured, 0 failed, 1 to do" in said
    assert (out / "table.md").exists()


def test_nothing_is_blamed_where_not_even_one_rank_can_be_measured(runner, results, monkeypatch):
    monkeypatch.setenv("CRASH", "serial")
    group = cases()
    outcome = run(runner, group)
    assert outcome.broken
    assert statuses(results, group) == [""] * 4


def test_only_what_fits_is_begun(runner):
    group = cases()
    assert [case.layout for case in runner.fitting(group, 1.2)] == ["serial", "ulysses=4", "ring=4"]
    assert runner.fitting(group, 0.1) == []


def test_groups_are_of_one_size_and_link():
    for group in groups(plan(4, "cuda", SIZES_PX, (True, False))):
        assert len({(case.kind, case.size_px, case.p2p) for case in group}) == 1


def test_an_image_is_summed_from_its_steps_where_it_was_not_measured():
    phases = {"synchronous": {"ms": 10.0}, "stale": {"ms": 3.0}}
    assert image_ms(phases, Layout.parse(STALE), 20) == (10 + 19 * 3, False)
    assert image_ms(phases | {"stale": {"ms": 3.0, "image_ms": 70.0}}, Layout.parse(STALE), 20) == (70.0, True)
    assert image_ms({"stale": {"ms": 3.0}}, Layout.parse(STALE), 20) == (None, False)


def test_the_table_names_what_failed_and_compares_with_the_best_single_gpu(runner, results, monkeypatch):
    monkeypatch.setenv("CRASH", "ring=4")
    run(runner, cases())
    step = {
        "machine": MACHINE,
        "rows": [{"size_px": 1024, "graph_ms": 4.0}],
    }
    results.save(Case("step", (1,)), "ok", 1.0, step)
    records = records_in(results.folder)
    rows = rows_of(records, MODELS)
    ulysses = next(row for row in rows if row["layout"] == "ulysses=4")
    assert ulysses["speedup"] == pytest.approx(4.0 / 5.0)
    assert ulysses["predicted_ms"] > 0
    table = markdown(records, rows, 7, "source")
    assert table.startswith("# 4 x NVIDIA H100")
    assert "7 cases are still to be measured" in table
    assert "| 1024px-ring4 | failed | CUDA out of memory" in table


def test_peers_are_drawn_beside_the_layouts_of_as_many_gpus(runner, results, tmp_path):
    run(runner, cases())
    for layout, gpus in (("ulysses=4", 4), ("ulysses=2", 2)):
        row = {"size_px": 1024, "layout": layout, "gpus": gpus, "step_ms": 9.0, "peak_gb": 3.0}
        report = {"machine": "NVIDIA H100", "peer": "xDiT", "rows": [row]}
        results.save(Case(f"peer-xdit-{gpus}", (1,), gpus), "ok", 1.0, report)
    write_summary(results, results.folder, 0)
    out = tmp_path / "plot.svg"
    for flags in ([], ["--memory"]):
        plot = [sys.executable, TOP / "bench" / "plot.py", "--out", out, "--gpus", "4", *flags]
        subprocess.run([*plot, f"ours={results.folder / 'summary.json'}"], check=True, timeout=60)
        names = {e.text for e in xml.etree.ElementTree.parse(out).getroot().iter("{http://www.w3.org/2000/svg}text")}
        drawn = {name for name in names if name.startswith(("xDiT", "ours"))}
        unit = ", peak" if flags else ""
        methods = {"ours, one GPU", "ours, ulysses, 4 GPUs", "ours, ring, 4 GPUs", "ours, pipefusion, 4 GPUs"}
        assert drawn == {f"xDiT, ulysses=4{unit}"} | methods


def test_peers_stand_beside_the_same_layout_on_the_same_machine_only(runner, results):
    run(runner, cases())

    def peer(name, machine="NVIDIA H100", **row):
        report = {"machine": machine, "peer": name.split("-")[0], "rows": [{"size_px": 1024} | row]}
        results.save(Case(f"peer-{name}", (1,)), "ok", 1.0, report)

    peer("xDiT-ulysses", layout="ulysses=4", step_ms=10.0)
    peer("xDiT-stale", layout=STALE, step_ms=8.0)
    peer("xDiT-other_size", layout="ring=4", step_ms=10.0, size_px=2048)
    peer("xDiT-other_machine", layout="ring=4", step_ms=10.0, machine="NVIDIA H200")
    peer("diffusers", eager_ms=20.0)
    peer("diffusers-compiled", eager_ms=20.0, compiled_ms=16.0)
    records = records_in(results.folder)
    rows = rows_of(records, MODELS)
    ours = {row["layout"]: row["image_ms"] / row["image_steps"] for row in rows}
    found = {(line["peer"], line["layout"]): (line["peer_ms"], line["of_peer"]) for line in beside_peers(records, rows)}
    assert found == {
        ("xDiT", "ulysses=4"): (10.0, ours["ulysses=4"] / 10.0),
        ("xDiT", STALE): (8.0, ours[STALE] / 8.0),
        ("diffusers eager", "serial"): (20.0, ours["serial"] / 20.0),
        ("diffusers compiled", "serial"): (16.0, ours["serial"] / 16.0),
    }
    table = markdown(records, rows, 0, "source")
    assert f"| 1024 | 4 | {STALE} | xDiT | 8.00 | {ours[STALE]:.2f} | {ours[STALE] / 8.0:.2f} |" in table


def test_peers_without_a_direct_link_are_not_compared(runner, results):
    run(runner, cases(p2p=False))
    report = {"machine": "NVIDIA H100", "peer": "xDiT", "rows": [{"size_px": 1024, "layout": "ring=4", "step_ms": 9.0}]}
    results.save(Case("peer-xdit-ring4", (1,)), "ok", 1.0, report)
    records = records_in(results.folder)
    assert not beside_peers(records, rows_of(records, MODELS))


def test_each_link_has_its_own_prediction(runner, results):
    for p2p in (True, False):
        run(runner, cases(p2p=p2p))
        rows = [{"size_mb": mb} | {f"{name} us": us for name in LINK_NAMES} for mb, us in ((0.01, 50.0), (100.0, 9e5))]
        link = {"what": "4 ranks, bfloat16", "machine": MACHINE, "rows": rows}
        if not p2p:
            results.save(Case("link", (1,), 4, p2p=False), "ok", 1.0, link)
    write_summary(results, results.folder, 0)
    summary = json.loads((results.folder / "summary.json").read_text())
    assert "link: assumed" in summary["roofs"]
    assert "link without P2P: measured here" in summary["roofs"]
    predicted = {row["p2p"]: row["predicted_ms"] for row in summary["cases"] if row["layout"] == "ulysses=4"}
    # Four exchanges of each of 28 blocks; a rank sends three quarters of its quarter of 18.9 MB, at 0.083 GB/s.
    slow_ms = 4 * 28 * (0.05 + 0.75 * 4.72e6 / (75e6 / (900 - 0.05)))
    assert predicted[False] - predicted[True] == pytest.approx(slow_ms, rel=0.01)


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--sizes", "1000"], "1000"),
        (["--sizes", "big"], "big"),
        (["--minutes", "0"], "--minutes"),
        (["--gpus", "3"], "3"),
        (["--p2p", "maybe"], "maybe"),
    ],
)
def test_refuses(tmp_path, flags, named):
    command = [sys.executable, TOP / "bench" / "run", tmp_path, "--device", "cpu", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert named in done.stderr
