"""The arithmetic of the scores, on features in memory. NumPy, float64."""

import dataclasses

import numpy as np

SPLIT = 5000  # images of one inception score, as in guided-diffusion's evaluator
NEIGHBOUR = 3
ROWS_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean [D] and unbiased covariance [D, D] of features."""

    mean: np.ndarray
    covariance: np.ndarray


def statistics(features: np.ndarray) -> Statistics:
    """Of features [N, ...], N >= 2, flattened to [N, D]; takes memory for some rows and for D x D."""
    flat = features.reshape(len(features), -1)
    mean = flat.mean(0, dtype=np.float64)
    covariance = np.zeros((flat.shape[1], flat.shape[1]))
    for first in range(0, len(flat), ROWS_AT_ONCE):
        centred = flat[first : first + ROWS_AT_ONCE] - mean
        covariance += centred.T @ centred
    return Statistics(mean, covariance / (len(flat) - 1))


def root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_distance(one: Statistics, other: Statistics, root_of_one: np.ndarray | None = None) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)), the FID (Heusel et al. 2017).

    The trace of the root is that of (R C2 R)^(1/2) with R = C1^(1/2), which is symmetric: no complex
    root comes up, and singular covariances (fewer images than D) need no regularisation.
    """
    r = root(one.covariance) if root_of_one is None else root_of_one
    values = np.linalg.eigvalsh(r @ other.covariance @ r)
    trace = np.sqrt(np.clip(values, 0, None)).sum()
    apart = one.mean - other.mean
    return float(
        apart @ apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * trace
    )


def inception_score(logits: np.ndarray, split: int = SPLIT) -> float:
    """exp of the mean KL(p(y|x) || p(y)), averaged over runs of `split` images (Salimans et al.)."""
    parts = []
    for first in range(0, len(logits), split):
        some = logits[first : first + split].astype(np.float64)
        some = some - some.max(1, keepdims=True)
        log_p = some - np.log(np.exp(some).sum(1, keepdims=True))
        p = np.exp(log_p)
        parts.append(np.exp((p * (log_p - np.log(p.mean(0)))).sum(1).mean()))
    return float(np.mean(parts))


def _squared_distances(rows: np.ndarray, all_rows: np.ndarray) -> np.ndarray:
    squares = (rows**2).sum(1)[:, None] + (all_rows**2).sum(1)[None]
    return np.clip(squares - 2 * rows @ all_rows.T, 0, None)


def _radii(features: np.ndarray, neighbour: int) -> np.ndarray:
    """Squared distance of each point to its neighbour-th, itself being number 0."""
    return np.concatenate(
        [
            np.partition(_squared_distances(rows, features), neighbour, axis=1)[:, neighbour]
            for rows in _runs(features)
        ]
    )


def _runs(features: np.ndarray):
    return (features[i : i + ROWS_AT_ONCE] for i in range(0, len(features), ROWS_AT_ONCE))


def precision_recall(
    reference: np.ndarray, samples: np.ndarray, neighbour: int = NEIGHBOUR
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features [N, D], N > neighbour.

    Precision: the share of samples that lie in the ball of some reference point, which reaches to
    that point's neighbour-th among the references. Recall: the other way round. Takes time and
    memory for 1000 x N distances at a time.
    """
    reference, samples = reference.astype(np.float64), samples.astype(np.float64)
    centre = reference.mean(0)  # Distances between centred points lose fewer digits.
    reference, samples = reference - centre, samples - centre
    return (
        _share_covered(samples, reference, _radii(reference, neighbour)),
        _share_covered(reference, samples, _radii(samples, neighbour)),
    )


def _share_covered(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    covered = [(_squared_distances(rows, centres) <= radii).any(1) for rows in _runs(points)]
    return float(np.concatenate(covered).mean())
