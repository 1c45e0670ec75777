"""bench/model.py against cases computed by hand (performance.md's formulas), with rates that make them easy."""

import json
import pathlib
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "bench"))
from model import Model, Shape  # noqa: E402
from roofs import (
    OPERATIONS,
    Curve,
    Link,
    Roofs,
    attention_of,
    gemm_of,
    level,
    links_of,
    measured,
    sent_bytes,
)  # noqa: E402
from suite.layout import Layout  # noqa: E402

A = 2 * 4096 * 1152 * 2  # Bytes of the activations at 1024 px: 18.9 MB.


def roofs(start_ms=0.0, gb_s=1e9, memory_tb_s=1e9, rate=500.0):
    links = {operation: Link(start_ms, level(gb_s)) for operation in OPERATIONS}
    return Roofs(level(rate), level(rate), level(rate), links, memory_tb_s)


def model(**changes):
    return Model(roofs(**changes), Shape(text_tokens=120))


def test_one_gpu_is_floating_point_operations_over_the_rate():
    # 1024 px: 8.52 + 4.33 + 0.13 TFLOP, 2048 px: 34.1 + 69.3 + 0.51.
    assert model().step_ms(Layout(), 1024, False) == pytest.approx(12.98 / 500 * 1e3, rel=0.002)
    assert model().step_ms(Layout(), 2048, False) == pytest.approx(103.9 / 500 * 1e3, rel=0.002)


def test_norms_pass_over_memory_four_times():
    added = model(memory_tb_s=2.0).step_ms(Layout(), 1024, False) - model().step_ms(Layout(), 1024, False)
    assert added == pytest.approx(28 * 4 * A / 2e12 * 1e3)


@pytest.mark.parametrize(
    "layout, megabytes",
    [  # Of 1024 px, from the table of volumes.
        (Layout(tensor=2), 1585), (Layout(tensor=4), 2378), (Layout(tensor=8), 2775),
        (Layout(ring=2), 528.5), (Layout(ring=4), 793), (Layout(distrifusion=8), 925),
        (Layout(ulysses=2), 528.5), (Layout(ulysses=4), 396), (Layout(ulysses=8), 231),
        (Layout(pipefusion=4, patches=8), 18.87), (Layout(ulysses=2, guidance=2), 264.3),
    ],
)  # fmt: skip
def test_bytes_are_those_of_the_table_but_for_what_branches_share(layout, megabytes):
    # Of 28 blocks, half of block 0 up to its text, which is one of three sums of the tensor axis.
    shares = layout.pipefusion == layout.guidance == 1
    saved = 0.5 / 28 / (3 if layout.tensor > 1 else 1) if shares else 0
    assert model().sent_mb(layout, 1024) == pytest.approx(megabytes * (1 - saved), rel=0.002)


def test_bytes_are_those_that_two_gpus_counted():
    rows = json.loads((TOP / "bench" / "results" / "layouts_2xh200.json").read_text())["rows"]
    counted = [row for row in rows if row.get("sent_mb") and row["layout"] != "serial"]
    assert len({row["layout"] for row in counted}) >= 6
    for row in counted:
        assert model().sent_mb(Layout.parse(row["layout"]), row["size_px"]) == pytest.approx(
            row["sent_mb"], rel=1e-6
        ), row


def test_exchanges_of_ulysses_and_tensor_are_not_hidden():
    compute_ms = model().step_ms(Layout(), 1024, False) / 2
    ulysses = model(gb_s=100.0, start_ms=0.05).step_ms(Layout(ulysses=2), 1024, False)
    assert ulysses == pytest.approx(compute_ms + 28 * 4 * (0.05 + A / 4 / 100e6))
    tensor = model(gb_s=100.0, start_ms=0.05).step_ms(Layout(tensor=2), 1024, False)
    assert tensor == pytest.approx(compute_ms + 28 * 3 * (0.05 + A / 100e6))


def test_a_ring_hides_its_hops_behind_attention_as_far_as_it_lasts():
    compute_ms = model().step_ms(Layout(), 1024, False) / 2
    assert model(gb_s=1000.0).step_ms(Layout(ring=2), 1024, False) == pytest.approx(compute_ms)
    attention_part_ms = 4 * 2048 * 2048 * 1152 * 2 / 500e9
    hop_ms = A / 10e6  # Keys and values of half of the tokens.
    slow = model(gb_s=10.0).step_ms(Layout(ring=2), 1024, False)
    assert hop_ms > attention_part_ms
    assert slow == pytest.approx(compute_ms + 28 * (hop_ms - attention_part_ms))


def test_distrifusion_hides_its_gathers_once_stale():
    compute_ms = model().step_ms(Layout(), 1024, False) / 4
    gather_ms = 28 * 2 * 3 / 4 * A / 100e6
    layout = Layout(distrifusion=4)
    assert model(gb_s=100.0).step_ms(layout, 1024, False) == pytest.approx(compute_ms + gather_ms)
    assert model(gb_s=100.0).step_ms(layout, 1024, True) == pytest.approx(max(compute_ms, gather_ms))
    assert model(gb_s=1e6).step_ms(layout, 1024, True) == pytest.approx(compute_ms)


def test_guidance_halves_the_batch():
    assert model().step_ms(Layout(guidance=2), 2048, False) == pytest.approx(model().step_ms(Layout(), 2048, False) / 2)


@pytest.mark.parametrize(
    "stages, patches, warm_up, speedup",
    [(2, 4, 1, 1.88), (4, 8, 1, 3.42), (4, 8, 2, 3.03), (8, 8, 1, 5.23), (8, 8, 4, 3.13), (8, 32, 2, 4.35)],
)
def test_pipefusion_speeds_up_as_tabled(stages, patches, warm_up, speedup):
    one_ms = 20 * model().step_ms(Layout(), 4096, False)
    layout = Layout(pipefusion=stages, patches=patches, warmup_steps=warm_up)
    assert one_ms / model().image_ms(layout, 4096, 20) == pytest.approx(speedup, abs=0.01)


def test_guidance_and_pipefusion_speed_up_as_tabled():
    one_ms = 20 * model().step_ms(Layout(), 4096, False)
    layout = Layout(pipefusion=4, patches=8, guidance=2)
    assert one_ms / model().image_ms(layout, 4096, 20) == pytest.approx(6.84, abs=0.01)


def test_too_few_patches_leave_stages_waiting():
    one_ms = model().step_ms(Layout(), 1024, False)
    stale = model().step_ms(Layout(pipefusion=4, patches=2), 1024, True)
    assert stale == pytest.approx(one_ms / 2)  # Two of four stages work at any time.


def test_a_pipeline_with_few_patches_runs_empty_one_stage_at_a_time():
    # A step of T, nineteen cycles of T / 2, and one more patch through the last stage: T / 8.
    one_ms = model().step_ms(Layout(), 1024, False)
    image_ms = model().image_ms(Layout(pipefusion=4, patches=2), 1024, 20)
    assert image_ms == pytest.approx((1 + 19 / 2 + 1 / 8) * one_ms)


def test_a_hop_counts_where_the_pipeline_has_no_slack():
    layout = Layout(pipefusion=4, patches=4)
    hop_ms = 0.05 + A / 4 / 100e6
    added = model(gb_s=100.0, start_ms=0.05).step_ms(layout, 1024, True) - model().step_ms(layout, 1024, True)
    assert added == pytest.approx(4 * hop_ms)


def test_curves_run_straight_between_logarithms_and_stay_level_outside():
    curve = Curve({100: 10, 10000: 1000})
    assert curve(1000) == pytest.approx(100)
    assert (curve(1), curve(1e6)) == (10, 1000)
    with pytest.raises(ValueError, match="positive"):
        Curve({})


def test_rates_come_from_reports():
    gemm = gemm_of({"rows": [{"rows": 1024, "product": "block: stock, fastest", "fastest": 300.0},
                             {"rows": 1024, "product": "qkv", "fastest": "128x192"}]})  # fmt: skip
    assert gemm(1024) == 300
    rows = [{"batch": 2, "queries": 4096, "keys": 4096, "stock": 340.0, "three": 414.0, "ratio": 1.2},
            {"batch": 2, "queries": 4096, "keys": 120, "stock": 100.0, "engine": 250.0, "biased": True}]  # fmt: skip
    assert attention_of({"rows": rows}, cross=False)(4096) == 414
    assert attention_of({"rows": rows}, cross=True)(4096) == 250


def test_a_link_gives_back_what_was_measured():
    names = ["all-reduce", "all-gather", "all-to-all", "to the next, from the one before"]
    sizes = {0.01: 50.0, 10.0: 100.0, 500.0: 2000.0}
    rows = [{"size_mb": mb} | {f"{name} us": us for name in names} for mb, us in sizes.items()]
    links = links_of({"what": "4 ranks, bfloat16", "rows": rows})
    for operation in OPERATIONS:
        for mb in (10.0, 500.0):
            assert links[operation].ms(sent_bytes(operation, mb * 1e6, 4)) == pytest.approx(sizes[mb] / 1e3)
    assert links["hop"].ms(0) == 0


def test_predicts_what_one_and_two_h200_took():
    """Nothing is fitted: rates are of single kernels, and the link is assumed."""
    predicted = Model(measured({}))
    rows = json.loads((TOP / "bench" / "results" / "layouts_2xh200.json").read_text())["rows"]
    compared = [row for row in rows if row["cuda_graphs"] == "on"]
    assert len(compared) >= 10
    for row in compared:
        ms = predicted.step_ms(Layout.parse(row["layout"]), row["size_px"], row["phase"] == "stale")
        assert ms == pytest.approx(row["ms"], rel=0.35), row


def test_prints_what_was_measured_beside_what_it_says():
    report = TOP / "bench" / "results" / "layouts_2xh200.json"
    command = [sys.executable, TOP / "bench" / "model.py", "--beside", report]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    serial = next(line for line in done.stdout.splitlines() if line.startswith("| 1024 | serial | synchronous"))
    ms, predicted_ms, ratio = (float(cell) for cell in serial.split("|")[4:7])
    assert ratio == pytest.approx(ms / predicted_ms, abs=0.01)
    assert predicted_ms == pytest.approx(Model(measured({})).step_ms(Layout(), 1024, False), abs=0.01)
