"""What the linker and the compiler do against a broken memory, in every program that is installed."""

import subprocess

import pytest

import harness

PROGRAMS = ["patchflow", "patchflow-server", "patchflow-worker"]


def read(program: str, *options: str) -> str:
    return subprocess.run(
        ["readelf", "--wide", *options, harness.BIN / program], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_addresses_are_random_and_tables_read_only(program):
    assert "DYN (Position-Independent Executable file)" in read(program, "--file-header")
    segments = read(program, "--program-headers")
    assert "GNU_RELRO" in segments
    stack = next(line.split() for line in segments.splitlines() if "GNU_STACK" in line)
    assert "E" not in stack[-2], f"an executable stack: {stack}"
    assert "BIND_NOW" in read(program, "--dynamic"), "the table of functions stays writable"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_smashed_stack_and_an_overrun_buffer_end_the_process(program):
    symbols = read(program, "--dyn-syms")
    assert "__stack_chk_fail@" in symbols
    assert "_chk@GLIBC" in symbols.replace("__stack_chk_fail@GLIBC", ""), "no call is checked (_FORTIFY_SOURCE)"


def test_buffers_whose_size_is_computed_are_checked():
    # The black box's copies into memory of a computed size: without a check at _FORTIFY_SOURCE=2.
    assert " __memcpy_chk@GLIBC" in read("patchflow-worker", "--dyn-syms")
