"""bench/run_*_checks.sh by programs that do as they are told."""

import json
import os
import pathlib
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
VAE_CHECKS = "bench/run_vae_checks.sh"


@pytest.fixture
def root(tmp_path):
    """A repository's root with a decoder benchmark that fails in fp16, and no other program."""
    (tmp_path / "bench").symlink_to(TOP / "bench")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "bench-vae"
    fake.write_text('#!/bin/bash\necho "decodes $*"\ncase "$*" in *fp16*) exit 3;; esac\necho "{}" > "$2"\n')
    fake.chmod(0o755)
    return tmp_path


def checks(root, *words):
    environment = os.environ | {"PATH": f"{root / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, timeout=60)


def test_a_part_that_fails_does_not_stop_the_others(root):
    done = checks(root, VAE_CHECKS, "out", "fp16", "bf16", "none")
    assert done.returncode == 1
    summary = json.loads((root / "out" / "summary.json").read_text())
    assert [(row["part"], row["status"]) for row in summary] == [("fp16", 3), ("bf16", 0), ("none", 2)]
    assert "decodes --json out/bf16.json" in (root / "out" / "bf16.log").read_text()
    assert (root / "out" / "bf16.json").exists()
    assert "no part none" in done.stdout


def test_all_is_well_if_every_part_is(root):
    assert checks(root, VAE_CHECKS, "out", "bf16").returncode == 0


@pytest.mark.parametrize("name", ["device", "parallel", "vae"])
def test_explains_itself(root, name):
    script = f"bench/run_{name}_checks.sh"
    done = checks(root, script)
    assert done.returncode == 2
    assert f"  {script} OUT [PART...]" in done.stdout.splitlines()
    assert not any(line.startswith("source") for line in done.stdout.splitlines())
