"""Whether one configuration's images are worse than another's, of the same prompts and seeds."""

import dataclasses

import numpy as np

from . import scores

RESAMPLES = 1000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class McNemar:
    """Of paired yes and no: how many changed each way, and how likely that is by chance."""

    lost: int  # The baseline had it, the other has not.
    gained: int
    p: float  # Exact, two-sided.


def mcnemar(baseline: np.ndarray, other: np.ndarray) -> McNemar:
    """Of two boolean arrays [N]: under the null hypothesis, lost of lost + gained is a fair coin's."""
    from scipy.stats import binomtest

    baseline, other = baseline.astype(bool), other.astype(bool)
    lost, gained = int((baseline & ~other).sum()), int((~baseline & other).sum())
    p = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    return McNemar(lost, gained, float(p))


@dataclasses.dataclass(frozen=True)
class Interval:
    low: float
    high: float


def interval(values: np.ndarray, level: float = LEVEL) -> Interval:
    """The middle `level` of the values."""
    beyond = (1 - level) / 2 * 100
    return Interval(*(float(edge) for edge in np.percentile(values, (beyond, 100 - beyond))))


class ResampledFid:
    """FIDs to one reference, of resamples of the images of several configurations.

    Resample r draws the same prompts for every configuration, so that what is common to them
    cancels in differences. Reference and its matrix root are fixed. D x D per resample: some
    milliseconds at D = 128.
    """

    def __init__(self, reference: np.ndarray, resamples: int = RESAMPLES, seed: int = 0):
        self._reference = scores.statistics(reference)
        self._root = scores.root(self._reference.covariance)
        self._resamples, self._seed = resamples, seed

    def counts(self, images: int) -> np.ndarray:
        """How often each image is drawn, int [resamples, images]; the same for every call."""
        chance = np.full(images, 1 / images)
        return np.random.default_rng(self._seed).multinomial(images, chance, self._resamples)

    def whole(self, features: np.ndarray) -> float:
        """Of all images, once each."""
        own = scores.statistics(features)
        return scores.frechet_distance(self._reference, own, self._root)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """[resamples] of features [N, D]."""
        centre = features.mean(0, dtype=np.float64)
        centred = features - centre
        return np.array([self._one(centred, centre, c) for c in self.counts(len(features))])

    def _one(self, centred: np.ndarray, centre: np.ndarray, counts: np.ndarray) -> float:
        total = len(centred)
        mean = counts @ centred / total
        second = (centred * counts[:, None]).T @ centred
        covariance = (second - total * np.outer(mean, mean)) / (total - 1)
        own = scores.Statistics(centre + mean, covariance)
        return scores.frechet_distance(self._reference, own, self._root)


def accuracy_interval(baseline: np.ndarray, other: np.ndarray, counts: np.ndarray) -> Interval:
    """Of the difference of the shares of yes, in points, over the same resamples."""
    change = other.astype(np.float64) - baseline.astype(np.float64)
    return interval(100 * (counts @ change) / len(change))
