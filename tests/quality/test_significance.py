"""Tests of hypotheses, against their definitions and on data whose truth is known."""

import numpy as np
import pytest
from scipy.stats import binom

from bench.quality import scores, significance


def test_mcnemar_is_the_binomial_of_the_changes():
    baseline = np.array([1] * 90 + [0] * 10, bool)
    other = baseline.copy()
    other[:8] = False
    other[90:92] = True
    found = significance.mcnemar(baseline, other)
    assert (found.lost, found.gained) == (8, 2)
    assert found.p == pytest.approx(2 * binom.cdf(2, 10, 0.5))
    assert significance.mcnemar(baseline, baseline) == significance.McNemar(0, 0, 1.0)


def test_interval_holds_the_middle():
    found = significance.interval(np.arange(1001) / 10)
    assert (found.low, found.high) == (pytest.approx(2.5), pytest.approx(97.5))


@pytest.fixture
def sets(rng):
    reference = rng.normal(size=(600, 6))
    return reference, reference + rng.normal(0, 0.4, reference.shape)


def test_a_resample_is_the_fid_of_the_images_drawn(sets):
    reference, images = sets
    resampled = significance.ResampledFid(reference, resamples=3)
    for counts, fid in zip(resampled.counts(600), resampled(images)):
        drawn = np.repeat(images, counts, 0)
        wanted = scores.frechet_distance(scores.statistics(reference), scores.statistics(drawn))
        assert fid == pytest.approx(wanted, rel=1e-6)
    assert resampled.whole(images) == pytest.approx(
        scores.frechet_distance(*(scores.statistics(s) for s in sets))
    )


def test_equal_configurations_differ_in_no_resample(sets):
    resampled = significance.ResampledFid(sets[0], resamples=20)
    assert (resampled(sets[1]) == resampled(sets[1].copy())).all()


def test_the_paired_interval_finds_a_small_harm_that_is_there(sets, rng):
    reference, baseline = sets
    worse = baseline + rng.normal(0, 0.25, baseline.shape)
    resampled = significance.ResampledFid(reference, resamples=200)
    base = resampled(baseline)
    found = significance.interval(resampled(worse) - base)
    assert 0 < found.low < resampled.whole(worse) - resampled.whole(baseline) < found.high
    alone = significance.interval(base)
    assert found.low < alone.high - alone.low  # Unpaired, it would drown.


def test_accuracy_interval_holds_the_difference(rng):
    baseline = rng.random(1000) < 0.95
    other = baseline & (rng.random(1000) < 0.98)
    resampled = significance.ResampledFid(rng.normal(size=(10, 2)), resamples=500)
    found = significance.accuracy_interval(baseline, other, resampled.counts(1000))
    points = 100 * (other.mean() - baseline.mean())
    assert found.low < points < found.high < 0
    assert found.high - found.low == pytest.approx(4 * np.sqrt(0.019 * 0.981 / 1000) * 100, rel=0.3)
