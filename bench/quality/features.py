"""Features of many images, and the .npz files that hold them."""

import dataclasses
import pathlib
import zipfile

import numpy as np

from . import images
from .errors import InputError
from .networks import OUTPUTS
from .scores import Statistics

BATCH = 50
READY = dict(pool=("mu", "sigma"), spatial=("mu_s", "sigma_s"))


@dataclasses.dataclass
class Features:
    """Rows belong to images, in order; an output that the network has not is None."""

    pool: np.ndarray | None = None
    spatial: np.ndarray | None = None
    logits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(value for value in vars(self).values() if value is not None))

    def rows(self, index) -> "Features":
        return Features(
            **{name: None if value is None else value[index] for name, value in vars(self).items()}
        )


def concatenated(parts: list[Features]) -> Features:
    have = [name for name in OUTPUTS if getattr(parts[0], name) is not None]
    return Features(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in have})


def extract(source, network, batch: int = BATCH) -> Features:
    """Of an image source; holds a batch of images and all features."""
    return concatenated([Features(**network(some)) for some in images.batches(source, batch)])


def ready_statistics(path: pathlib.Path) -> dict[str, Statistics]:
    """By output: what an .npz of guided-diffusion holds as mu, sigma, mu_s, sigma_s; {} if none."""
    try:
        with zipfile.ZipFile(path) as file:
            held = {name.removesuffix(".npy") for name in file.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: can't be read as .npz: {error}") from error
    found = {}
    for output, (mean, covariance) in READY.items():
        if mean not in held or covariance not in held:
            continue
        with np.load(path) as arrays:
            mu, sigma = arrays[mean].astype(np.float64), arrays[covariance].astype(np.float64)
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise InputError(f"{path}: {mean} is {list(mu.shape)}, but {covariance} {list(sigma.shape)}")
        found[output] = Statistics(mu, sigma)
    return found
