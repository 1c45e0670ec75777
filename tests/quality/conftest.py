import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def save(tmp_path):
    """save(name, arrays): a folder of images; returns its path."""

    def write(name, arrays, suffix=".png"):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(folder / f"{number:05d}{suffix}")
        return folder

    return write


@pytest.fixture
def noise(rng):
    """noise(count, height, width): random images uint8 [N, H, W, 3]."""
    return lambda count, height=32, width=32: rng.integers(0, 256, (count, height, width, 3), np.uint8)
