"""The arithmetic of the scores, against scipy and torchmetrics on the same features."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from bench.quality import scores


class Passing(torch.nn.Module):
    """A "network" that gives back its input."""

    num_features = 24

    def forward(self, x):
        return x.flatten(1)[:, : self.num_features]


@pytest.fixture
def two_sets(rng):
    mixing = rng.normal(size=(24, 24))
    return rng.normal(size=(500, 24)) @ mixing, rng.normal(0.3, 1.4, (400, 24)) @ mixing


def test_statistics_are_numpys(two_sets):
    found = scores.statistics(two_sets[0].astype(np.float32).reshape(500, 2, 3, 4))
    np.testing.assert_allclose(found.mean, two_sets[0].mean(0), atol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(two_sets[0].T), rtol=1e-4, atol=1e-4)


def test_statistics_of_many_rows_are_those_of_one_run(rng, monkeypatch):
    features = rng.normal(size=(2500, 5)) + 1000
    monkeypatch.setattr(scores, "ROWS_AT_ONCE", 300)
    np.testing.assert_allclose(scores.statistics(features).covariance, np.cov(features.T), rtol=1e-9)


def test_fid_is_that_of_scipys_root(two_sets):
    one, other = (scores.statistics(features) for features in two_sets)
    rooted = scipy.linalg.sqrtm(one.covariance @ other.covariance).real
    wanted = ((one.mean - other.mean) ** 2).sum() + np.trace(
        one.covariance + other.covariance - 2 * rooted
    )
    assert scores.frechet_distance(one, other) == pytest.approx(wanted, rel=1e-9)
    assert scores.frechet_distance(other, one) == pytest.approx(wanted, rel=1e-9)


def test_fid_is_torchmetrics(two_sets):
    metric = FrechetInceptionDistance(feature=Passing(), normalize=True).set_dtype(torch.float64)
    for features, real in zip(two_sets, (True, False)):
        metric.update(torch.from_numpy(features), real=real)
    mine = scores.frechet_distance(*(scores.statistics(features) for features in two_sets))
    assert mine == pytest.approx(metric.compute().item(), rel=1e-6)


def test_fid_of_known_gaussians():
    one = scores.Statistics(np.zeros(2), np.diag([4.0, 9.0]))
    other = scores.Statistics(np.array([3.0, 4.0]), np.diag([1.0, 16.0]))
    assert scores.frechet_distance(one, other) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 4) ** 2)


def test_fid_of_fewer_images_than_features_is_finite(rng):
    few = scores.statistics(rng.normal(size=(6, 40)))
    assert scores.frechet_distance(few, few) == pytest.approx(0, abs=1e-4)
    assert scores.frechet_distance(few, scores.statistics(rng.normal(size=(7, 40)) + 1)) > 10


def test_inception_score_is_torchmetrics(rng):
    logits = rng.normal(0, 3, (64, 24))
    metric = InceptionScore(feature=Passing(), splits=1)
    metric.update(torch.from_numpy(logits))
    assert scores.inception_score(logits) == pytest.approx(metric.compute()[0].item(), rel=1e-5)


def test_inception_score_of_sure_and_varied_images_is_their_number_of_classes():
    sure = 1e4 * np.eye(8)[np.arange(80) % 8]
    assert scores.inception_score(sure) == pytest.approx(8)
    assert scores.inception_score(np.zeros((10, 8))) == pytest.approx(1)
    halves = np.concatenate([sure[:40], np.zeros((40, 8))])
    assert scores.inception_score(halves, split=40) == pytest.approx((8 + 1) / 2)


def by_definition(reference, samples, k=3):
    """Precision, point by point."""
    inside = 0
    radii = [np.sort([((r - s) ** 2).sum() for s in reference])[k] for r in reference]
    for sample in samples:
        inside += any(((sample - r) ** 2).sum() <= radius for r, radius in zip(reference, radii))
    return inside / len(samples)


def test_precision_and_recall_are_their_definition(rng, monkeypatch):
    monkeypatch.setattr(scores, "ROWS_AT_ONCE", 17)
    reference, samples = rng.normal(size=(60, 4)), rng.normal(0.8, 0.7, (50, 4))
    precision, recall = scores.precision_recall(reference, samples)
    assert precision == pytest.approx(by_definition(reference, samples))
    assert recall == pytest.approx(by_definition(samples, reference))
    assert 0 < recall < precision < 1


def test_precision_and_recall_of_extremes(rng):
    points = rng.normal(size=(40, 3)).astype(np.float32) + 500
    assert scores.precision_recall(points, points) == (1, 1)
    assert scores.precision_recall(points, points + 100) == (0, 0)
    one_mode = np.repeat(points[:1], 40, 0)
    assert scores.precision_recall(points, one_mode) == (1, pytest.approx(1 / 40))
