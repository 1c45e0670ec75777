import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import harness  # noqa: E402


@pytest.fixture(scope="session")
def server():
    """The built server on the bundled model; `.address` is host:port."""
    with harness.Server([harness.Group(harness.BUNDLED)]) as running:
        yield running.wait_ready()
