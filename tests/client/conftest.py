import importlib
import os
import pathlib
import shutil
import subprocess
import sys

import harness
import pytest


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The package's wheel, built offline from a copy of its folder and of proto/."""
    top = tmp_path_factory.mktemp("wheel")
    shutil.copytree(harness.TOP / "proto", top / "proto")
    shutil.copytree(
        harness.TOP / "client" / "python",
        top / "client" / "python",
        ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "patchflow"),
    )
    pip("wheel", "--no-build-isolation", "-w", top / "wheels", top / "client" / "python")
    (built,) = (top / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def web_wheel(tmp_path_factory) -> pathlib.Path:
    """patchflow-web's wheel, built offline."""
    top = tmp_path_factory.mktemp("web-wheel")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(harness.TOP / "client" / "web", top / "web", ignore=ignored)
    pip("wheel", "--no-build-isolation", "-w", top / "wheels", top / "web")
    (built,) = (top / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    """A fresh folder with the wheel installed."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--target", target, wheel)
    return target


@pytest.fixture(scope="session")
def patchflow(installed):
    """The installed package, imported here."""
    sys.path.insert(0, str(installed))
    module = importlib.import_module("patchflow_client")
    assert pathlib.Path(module.__file__).is_relative_to(installed)
    return module


def pip(command: str, *arguments):
    """Runs pip without a network and without dependencies."""
    offline = [sys.executable, "-m", "pip", command, "-q", "--no-deps", "--no-index", "--disable-pip-version-check"]
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    subprocess.run([*offline, *map(str, arguments)], check=True, timeout=120, env=environment)
