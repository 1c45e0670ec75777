#!/usr/bin/env python3
"""Breaks every parallel method on purpose and says which test saw it.

    tests/parallel/mutants.py [--only NAME] [--build | --run]     after a build of build/

Each mutant is one changed place of one file of parallel/, compiled as build/ compiles it and linked in front of the
library. --build only makes the programs, --run only runs those made before. Ends with 1 if a mutant survives.
"""

import argparse
import json
import pathlib
import re
import shlex
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = TOP / "build"
OUT = BUILD / "mutants"
TIMEOUT_S = 240

# name: (file of parallel/, text there, text instead, tests that may see it)
MUTANTS = {
    "tensor: drop the sum": (
        "tensor_parallel.cc", "axis_.AllReduceSum(partial).Wait();", "(void)axis_;", ["tensor_parallel"]),
    "ring: drop the last block of keys": (
        "ring.cc", "hop < axis_.size(); ++hop", "hop < axis_.size() - 1; ++hop", ["ring"]),
    "ring: pass on one's own keys only": (
        "ring.cc", "    held = next;\n", "", ["ring"]),
    "ulysses: swap the tokens of two ranks": (
        "ulysses.cc", "begins[from], spans[from].size())", "begins[to], spans[to].size())", ["ulysses"]),
    "ulysses: keep another rank's heads": (
        "ulysses.cc", "x_BSnhD.select(-3, here)", "x_BSnhD.select(-3, ranks - 1 - here)", ["ulysses"]),
    "ulysses: give back another rank's heads": (
        "ulysses.cc", ".select(2, here), of(here)", ".select(2, ranks - 1 - here), of(here)", ["ulysses"]),
    "ulysses: take the second branch for the first": (
        "ulysses.cc", "part(i)));", "part(0)));", ["ulysses"]),
    "guidance: drop the other branch": (
        "guidance_split.cc", "axis_.AllGather(eps_BSC.contiguous(), both).Wait();",
        "both.copy_(eps_BSC.unsqueeze(0));", ["guidance_split"]),
    "guidance: swap the branches": (
        "guidance_split.cc", "both.chunk(2)[axis_.rank()]", "both.chunk(2)[1 - axis_.rank()]", ["guidance_split"]),
    "distrifusion: use one's own stale keys": (
        "distrifusion.cc", "    Keep(in, block);\n    if (freshness_",
        "    if (freshness_ == Freshness::kSynchronous || !block.kv_BS2HD.defined()) Keep(in, block);\n"
        "    if (freshness_", ["distrifusion"]),
    "distrifusion: one warm-up step too many": (
        "distrifusion.cc", "step < warmup_steps_ ?", "step <= warmup_steps_ ?", ["distrifusion"]),
    "distrifusion: never exchange after the warm-up": (
        "distrifusion.cc", "step < last ", "step < 0 ", ["distrifusion"]),
    "distrifusion: send the keys before they are one's own": (
        "distrifusion.cc", "block.arrival.Wait();\n    Keep(in, block);", "Keep(in, block);\n    block.arrival.Wait();",
        ["distrifusion"]),
    "exchange: swap the rows of two peers": (
        "exchange.cc", "spans[from].begin, spans[from].size()), from}", "spans[to].begin, spans[to].size()), from}",
        ["distrifusion", "ulysses"]),
    "pipefusion: use one's own stale keys": (
        "patch_cache.cc", "  Write(cache, 0, in.k_BSHD, patch);\n  Write(cache, 1, in.v_BSHD, patch);\n"
        "  return inner_.Attend({in.block, in.span, in.q_BSHD, cache[0], cache[1], in.images});",
        "  if (patch < 0 || plan_.patches() == 1) {\n    Write(cache, 0, in.k_BSHD, patch);\n"
        "    Write(cache, 1, in.v_BSHD, patch);\n  }\n"
        "  Tensor o = inner_.Attend({in.block, in.span, in.q_BSHD, cache[0], cache[1], in.images});\n"
        "  Write(cache, 0, in.k_BSHD, patch);\n  Write(cache, 1, in.v_BSHD, patch);\n  return o;", ["pipefusion"]),
    "pipefusion: share the sampler's history": (
        "pipefusion.cc", "patch.state.previous_x0_NSC.copy_(part(whole_.state.previous_x0_NSC));",
        "patch.state.previous_x0_NSC =\n        memory_.patches().front().state.previous_x0_NSC.resize_(patch.x_NSC.sizes());",
        ["pipefusion"]),
    "pipefusion: begin with no history": (
        "pipefusion.cc", "patch.state.previous_x0_NSC.copy_(part(whole_.state.previous_x0_NSC));",
        "patch.state.previous_x0_NSC.zero_();", ["pipefusion"]),
    "pipefusion: one warm-up step too many": (
        "pipefusion.cc", "warmup_steps_(std::min(stage.warmup_steps, num_steps_))",
        "warmup_steps_(std::min(stage.warmup_steps + 1, num_steps_))", ["pipefusion"]),
    "preview: swap patches": (
        "pipefusion.cc", "patches.push_back(patch.state.previous_x0_NSC);",
        "patches.insert(patches.begin(), patch.state.previous_x0_NSC);", ["preview"]),
    "preview: show the step before": (
        "stage_preview.cc", "view_->Show(std::exchange(due_, 0), whole_",
        "view_->Show(std::exchange(due_, 0) - 1, whole_", ["preview"]),
    "preview: leave one on its way when stopped": (
        "stage_preview.cc", "void StagePreview::Finish(bool stopped) {\n  if (due_ > 0) {",
        "void StagePreview::Finish(bool stopped) {\n  if (due_ > 0 && !stopped) {", ["preview"]),
    "preview: show one's own share": (
        "distrifusion.cc", "        .whole = whole};", "        };", ["preview"]),
    "pipefusion: swap patches": (
        "pipefusion.cc", "patches.push_back(patch.x_NSC);", "patches.insert(patches.begin(), patch.x_NSC);",
        ["pipefusion"]),
    "pipefusion: write keys of a patch in the place of another": (
        "patch_cache.cc", "CopyWide(whole.narrow(1, begins_[patch], begins_[patch + 1] - begins_[patch]), fresh_BTHD);",
        "whole.narrow(1, begins_.back() - begins_[patch] - fresh_BTHD.size(1), fresh_BTHD.size(1)).copy_(fresh_BTHD);",
        ["pipefusion"]),
    "pipefusion x ulysses: leave the warm-up's keys by rank": (
        "patch_cache.cc", "at::index_select_out(whole, fresh_BTHD, 1, patch_major_);", "whole.copy_(fresh_BTHD);",
        ["pipefusion"]),
    "pipefusion: do not wait for a patch": (
        "pipefusion.cc", "      arrival.Wait();\n      if (i + 1", "      if (i + 1", ["pipefusion"]),
}  # fmt: skip


def compile_mutant(source: pathlib.Path, mutated: pathlib.Path) -> pathlib.Path:
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    command = shlex.split(next(c["command"] for c in commands if c["file"] == str(source)))
    target = mutated.with_suffix(".o")
    command[command.index("-o") + 1] = str(target)
    command[command.index(str(source))] = str(mutated)
    subprocess.run([part for part in command if part != "-MD"], cwd=BUILD, check=True)
    return target


def link(test: str, mutant: pathlib.Path, program: pathlib.Path) -> None:
    name = f"test_parallel_{test}"
    listed = subprocess.run(["ninja", "-t", "commands", name], cwd=BUILD, check=True, capture_output=True, text=True)
    command = next(line for line in reversed(listed.stdout.splitlines()) if f"-o tests/{name} " in line)
    command = re.sub(rf"-o tests/{name} ", f"-o {program} {mutant} ", command)
    subprocess.run(command, cwd=BUILD, check=True, shell=True)


def programs_of(name: str) -> list[tuple[str, pathlib.Path]]:
    folder = OUT / re.sub(r"\W+", "_", name)
    return [(test, folder / f"test_{test}") for test in MUTANTS[name][3]]


def build(name: str) -> None:
    file, old, new, _ = MUTANTS[name]
    source = TOP / "parallel" / file
    text = source.read_text()
    assert text.count(old) == 1, f"{name}: {file} has {text.count(old)} of {old!r}"
    folder = OUT / re.sub(r"\W+", "_", name)
    folder.mkdir(parents=True, exist_ok=True)
    mutated = folder / file
    if not mutated.exists() or mutated.read_text() != text.replace(old, new):
        mutated.write_text(text.replace(old, new))
    mutant = compile_mutant(source, mutated)
    for test, program in programs_of(name):
        link(test, mutant, program)


def failures_of(program: pathlib.Path) -> list[str]:
    """The claims that failed; how the program ended if it did not get to say so."""
    try:
        run = subprocess.run([program], cwd=TOP, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return ["(timeout)"]
    failed = re.findall(r"^\[  FAILED  \] (\S+?/?\w+\.\w+)", run.stdout, re.MULTILINE)
    return sorted(set(failed)) or ([] if run.returncode == 0 else [f"(exit {run.returncode})"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--run", action="store_true")
    options = parser.parse_args()
    survivors = 0
    for name in (n for n in MUTANTS if options.only in n):
        if not options.run:
            build(name)
        if options.build:
            continue
        seen = {test: failures_of(program) for test, program in programs_of(name)}
        survivors += not any(seen.values())
        print(f"{name}: {seen if any(seen.values()) else 'SURVIVES'}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
