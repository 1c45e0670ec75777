"""The models are tested at toy size, on one thread: they share their machine with other tests."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
for unwanted in ("USE_TF", "USE_FLAX", "USE_JAX"):
    os.environ.setdefault(unwanted, "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
