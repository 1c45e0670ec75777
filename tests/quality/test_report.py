"""The figures and the page of a comparison whose truth is known."""

import json
import re

import numpy as np
import pytest

from bench.quality import errors, plan, report, run_comparison, shards, summary
from bench.quality.features import Features

PROMPTS, SHARD = 120, 40


@pytest.fixture(scope="module")
def what():
    def one(name, **fields):
        return plan.Configuration(name, fields.pop("prompts", PROMPTS), 20, **fields)

    made = (
        one("serial", kind="baseline"),
        one("serial, 10 steps", kind="fewer steps"),
        one("serial, reseeded 1", kind="reseeded", first_seed=plan.RESEEDED_BY),
        one("ulysses 2", ranks=2, layout=(("ulysses", 2),)),
        one("pipefusion 2 M=4 W=1", prompts=80, ranks=2, layout=(("pipefusion", 2),)),
    )
    return plan.checked(plan.Plan(made, shard=SHARD), "test")


def a_shard(rng, pool, shown, psnr_db, seconds, digest):
    count = len(pool)
    return shards.Shard(
        Features(pool=pool, spatial=rng.normal(size=(count, 7, 2, 2)), logits=rng.normal(size=(count, 5))),
        {name: shown.astype(np.float32) for name in shards.VERDICTS},
        {} if psnr_db is None else dict(psnr_db=np.full(count, psnr_db), ssim=np.full(count, 0.9)),
        {name: np.full(count, seconds / len(shards.STAGES)) for name in shards.STAGES},
        np.array([f"{digest}-{i}" for i in range(count)]),
    )


@pytest.fixture
def work(tmp_path, what):
    """A finished comparison: fewer steps do harm, Ulysses gives serial's very images."""
    found = run_comparison.Comparison(tmp_path, what, "cpu")
    rng = np.random.default_rng(5)
    for shard in range(what.shards):
        perfect = rng.normal(size=(SHARD, 6))
        serial = perfect + rng.normal(0, 0.3, perfect.shape)
        shown = rng.random(SHARD) < 0.95
        worse = shown & (rng.random(SHARD) < 0.8)
        shards.save_features(
            Features(pool=perfect, spatial=rng.normal(size=(SHARD, 7, 2, 2)), logits=perfect),
            found.result("reference", shard),
        )
        drawn = (
            a_shard(rng, serial, shown, None, 0.8, "s"),
            a_shard(rng, serial + rng.normal(0, 0.5, serial.shape), worse, 21.0, 0.4, "f"),
            a_shard(rng, perfect + rng.normal(0, 0.3, perfect.shape), shown, 9.0, 0.8, "r"),
            a_shard(rng, serial, shown, 100.0, 0.5, "s"),
            a_shard(rng, serial + rng.normal(0, 0.01, serial.shape), shown, 40.0, float("nan"), "p"),
        )
        for one, result in zip(what.configurations, drawn):
            if what.in_shard(one, shard):
                shards.save(result, found.result(one.name, shard))
    (tmp_path / "results" / "machine-1-of-1.json").write_text(
        json.dumps(dict(machine="a <fast> one", gpus=2, dtype="bfloat16", model="m", command="c"))
    )
    return found


def test_rows_tell_harm_from_equality(work):
    rows, bands = summary.summarise(work, resamples=100)
    serial, fewer, reseeded, ulysses, pipefusion = rows
    assert serial.fid_change is None and serial.within is None and serial.speedup == 1
    assert fewer.fid_change > 0.3 and fewer.fid_interval.low > 0.1 and not fewer.within
    assert fewer.accuracy_change < -8 and fewer.mcnemar.p < 1e-4 and fewer.mcnemar.gained == 0
    assert fewer.accuracy_interval.low < fewer.accuracy_change < fewer.accuracy_interval.high < 0
    assert fewer.speedup == pytest.approx(2)
    assert ulysses.fid_change == pytest.approx(0, abs=1e-9) and ulysses.within
    assert ulysses.equal_images == 1 and ulysses.fid_to_serial == pytest.approx(0, abs=1e-5)
    assert (ulysses.mcnemar.p, ulysses.pairs["psnr_db_low"]) == (1, 100)
    assert pipefusion.prompts == 80 and np.isnan(pipefusion.seconds)
    assert abs(pipefusion.fid_change) < 0.03
    assert [band.prompts for band in bands] == [120, 80]
    assert bands[0].fid_change == (reseeded.fid_change, reseeded.fid_change)


def test_both_limits_must_hold():
    def within(fid_change, accuracy_change):
        row = summary.Row("a", "method", 20, 100, 1.0, 1.0, {}, fid_change=fid_change)
        row.accuracy_change = accuracy_change
        return row.within

    assert within(0.029, -0.99) and within(-0.5, 3)
    assert not within(0.031, 0) and not within(0, -1.01)


def test_a_row_of_fewer_prompts_is_against_serial_on_the_same(work):
    """Spoils serial's last shard, which PipeFusion has not drawn."""
    before = summary.summarise(work, resamples=20)[0][-1]
    path = work.result("serial", 2)
    spoilt = shards.load(path)
    spoilt.features.pool += 5
    shards.save(spoilt, path)
    after = summary.summarise(work, resamples=20)[0]
    assert after[-1].fid_change == before.fid_change
    assert after[0].scores["fid"] > 1


def test_the_page_opens_without_a_network(work, noise):
    for one in work.plan.configurations:
        folder = work.out / "kept" / plan.folder_of(one.name)
        folder.mkdir(parents=True)
        report.Image.fromarray(noise(1)[0]).save(folder / "00000.png")
    path = report.write(work, resamples=50)
    text = path.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "url(http" not in text and "<script" not in text and "@import" not in text
    for one in work.plan.configurations:
        assert text.count(f"<td>{one.name}</td>") == 1
    assert text.count("data:image/webp") == 1 + 2 * 3  # No reseeded images: they show other scenes.
    assert "<svg" in text and "a &lt;fast&gt; one" in text and work.scenes[0].caption in text
    held = json.loads((work.out / "report.json").read_text())
    assert held["rows"][1]["name"] == "serial, 10 steps" and held["rows"][1]["within"] is False
    assert held["rows"][4]["seconds"] is None


def test_a_comparison_half_done_is_reported_so_far(work):
    work.result("serial, 10 steps", 1).unlink()
    work.result("ulysses 2", 0).unlink()
    rows = {row.name: row for row in summary.summarise(work, resamples=20)[0]}
    assert rows["serial, 10 steps"].prompts == 40 and "ulysses 2" not in rows
    work.result("serial", 0).unlink()
    with pytest.raises(errors.InputError, match="serial/0000.npz: is missing: nothing to compare with"):
        summary.summarise(work, resamples=20)


def test_damaged_shards_are_named(work):
    path = work.result("serial", 0)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(errors.InputError, match="serial/0000.npz: can't be read as a shard"):
        summary.summarise(work, resamples=20)
    shards.save_features(Features(pool=np.zeros((4, 2))), path)
    with pytest.raises(errors.InputError, match="serial/0000.npz: has no digest: is no shard"):
        summary.summarise(work, resamples=20)


def test_a_folder_of_another_comparison_is_refused(work, what):
    run_comparison.Comparison(work.out, what, "cpu")
    with pytest.raises(errors.InputError, match="plan.json: is of another comparison"):
        run_comparison.Comparison(work.out, plan.standard(100, 50, shard=25), "cpu")
