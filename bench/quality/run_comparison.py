#!/usr/bin/env python3
"""Compares configurations of the server: draws, scores, and writes a report of them.

    bench/quality/run_comparison.py --out DIR [--prompts 2000 --few 500 | --plan FILE] [--minutes 9]
                                    [--device cuda --gpus 2] [--part K/N] [--bin DIR]

Draws the judged prompts of models/evaluate.py, number i with seed i, by patchflow-server and
patchflow generate: serial, serial reseeded, with fewer steps, and every method (plan.py; --plan FILE
reads another plan, --write-plan prints the standard one). Work goes shard by shard: some prompts are
drawn by every configuration, scored together, and their images deleted, except the first 16.

What DIR then holds is small, and results of several machines can be copied together:

    plan.json, captions.txt     what is drawn
    results/NAME/SHARD.npz      features, verdicts, PSNR and SSIM to serial, timings
    results/machine-*.json      where it was drawn, and by which command
    kept/NAME/00000.png ...     the first 16 images of each
    report.html, report.json    once no shard is missing

--minutes bounds a run, which ends with status 3 if there is more to do; the same command goes on
where it stopped. --part K/N does a part of the shards. --report-only writes the report of what is
there. A GPU gets a server of its own for each configuration of one rank.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
for unwanted in ("USE_TF", "USE_FLAX"):  # transformers would load them
    os.environ.setdefault(unwanted, "0")

from bench import end_to_end  # noqa: E402
from bench.quality import errors, networks, pairs, plan, serving, shards, significance  # noqa: E402
from models import evaluate  # noqa: E402

KEPT = 16
UNFINISHED = 3
REFERENCE = "reference"


class Comparison:
    """The work in one folder."""

    def __init__(self, out: pathlib.Path, what: plan.Plan, device: str, lpips=None):
        self.out, self.plan = out, what
        self.captions = out / "captions.txt"
        self.scenes = evaluate.judged_scenes(what.prompts)
        self.network = networks.CheckerNetwork(device)
        self.lpips = lpips
        self._keep_plan()

    def _keep_plan(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plan.as_json(self.plan), indent=1) + "\n"
        kept = self.out / "plan.json"
        if kept.exists() and kept.read_text() != text:
            raise errors.InputError(f"{kept}: is of another comparison; choose another --out")
        kept.write_text(text)
        self.captions.write_text("".join(s.caption + "\n" for s in self.scenes), encoding="utf-8")

    def result(self, name: str, shard: int) -> pathlib.Path:
        return self.out / "results" / plan.folder_of(name) / f"{shard:04d}.npz"

    def images(self, one: plan.Configuration) -> pathlib.Path:
        return self.out / "images" / plan.folder_of(one.name)

    def missing(self, shard: int) -> list[plan.Configuration]:
        return [
            one
            for one in self.plan.configurations
            if self.plan.in_shard(one, shard) and not self.result(one.name, shard).exists()
        ]

    def done(self) -> bool:
        return not any(self.missing(shard) for shard in range(self.plan.shards))

    def reference(self, shard: int) -> None:
        path = self.result(REFERENCE, shard)
        if not path.exists():
            numbers = self.plan.range_of(shard)
            shards.save_features(
                shards.reference(self.scenes[numbers.start : numbers.stop], self.network), path
            )

    def score(self, one: plan.Configuration, shard: int) -> shards.Shard:
        numbers = self.plan.range_of(shard)
        folder, base = self.images(one), self.images(self.plan.configurations[0])
        found = shards.score(
            shards.Numbered(folder, numbers),
            self.scenes[numbers.start : numbers.stop],
            None if one.kind == "baseline" else shards.Numbered(base, numbers),
            serving.stage_seconds(folder, numbers),
            self.network,
            self.lpips,
        )
        kept = self.out / "kept" / plan.folder_of(one.name)
        for number in numbers:
            if number < KEPT:
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / f"{number:05d}.png", kept)
        shards.save(found, self.result(one.name, shard))
        return found

    def clear(self, shard: int) -> None:
        """Deletes the images of a shard that all configurations have."""
        for one in self.plan.configurations:
            for number in self.plan.range_of(shard):
                (self.images(one) / f"{number:05d}.png").unlink(missing_ok=True)


def draw_shard(work: Comparison, shard: int, open_fleet, arguments, deadline) -> None:
    """Draws and scores what is missing of a shard, a fleet for each way of serving."""
    missing = work.missing(shard)
    if not missing:
        return
    work.reference(shard)
    base = work.plan.configurations[0]
    if base not in missing:  # Its images are needed, to pair others with.
        missing.insert(0, base)
    for way in dict.fromkeys(one.serving for one in missing):
        deadline.check()
        with open_fleet(way) as fleet:
            for one in (one for one in missing if one.serving == way):
                deadline.check()
                began = time.monotonic()
                serving.draw(
                    fleet, work.plan, one, shard, work.captions, work.images(one),
                    arguments.in_flight, deadline,
                )  # fmt: skip
                drawn = time.monotonic()
                before = work.result(one.name, shard)
                again = shards.load(before).digest if before.exists() else None
                found = work.score(one, shard)
                if again is not None and (again != found.digest).any():
                    changed = int((again != found.digest).sum())
                    print(f"note: {one.name}: {changed} images came out otherwise than before")
                print(
                    f"shard {shard + 1}/{work.plan.shards}, {one.name}: {len(found.features)} images"
                    f" in {drawn - began:.1f} s, shown {100 * found.verdicts['shown'].mean():.1f} %,"
                    f" scored in {time.monotonic() - drawn:.1f} s",
                    flush=True,
                )
    work.clear(shard)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, default=pathlib.Path("comparison"))
    add("--plan", type=pathlib.Path, help="JSON; instead of --prompts, --few, --steps, --ranks, --shard")
    add("--prompts", type=int, default=2000)
    add("--few", type=int, default=500, help="of the sweep and the synchronous methods")
    add("--steps", type=int, default=20)
    add("--ranks", type=int, default=2, help="of every method")
    add("--shard", type=int, default=250, help="prompts at a time")
    add("--write-plan", action="store_true", help="print the plan and end")
    add("--minutes", type=float, help="end in so many")
    add("--part", default="1/1", help="K/N: only the K-th of N parts of the shards, K from 1")
    add("--model", type=pathlib.Path, default=evaluate.MODEL)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--gpus", type=int, default=0, help="of this machine; 0 with --device cpu")
    add("--dtype", default="", help="of the server; its default if not given")
    add("--in-flight", type=int, default=2, help="requests at a time of each server")
    add("--lpips", type=pathlib.Path, help="AlexNet's weights, for LPIPS to serial")
    add("--bin", type=pathlib.Path, help="folder of the programs (default: build/bin)")
    add("--resamples", type=int, default=significance.RESAMPLES, help="behind each interval")
    add("--report-only", action="store_true")
    add("--no-report", action="store_true")
    arguments = parser.parse_args()
    if (arguments.device == "cuda") != (arguments.gpus > 0):
        parser.error("--device cuda and --gpus go together")
    return arguments


def _part_of(text: str, shards_in_all: int) -> range:
    try:
        k, n = map(int, text.split("/"))
    except ValueError:
        k, n = 0, 0
    if not 1 <= k <= n:
        raise errors.InputError(f"--part: {text!r} is not K/N with 1 <= K <= N")
    return range((k - 1) * shards_in_all // n, k * shards_in_all // n)


def _plan_of(arguments) -> plan.Plan:
    if arguments.plan:
        return plan.read(arguments.plan)
    return plan.standard(
        arguments.prompts, arguments.few, arguments.steps, arguments.ranks, arguments.shard
    )


def _exact_arithmetic() -> None:
    """Features of GPUs and CPUs differ by rounding only."""
    import torch

    torch.backends.cudnn.allow_tf32 = False


def _keep_machine(work: Comparison, arguments) -> None:
    said = dict(
        machine=evaluate.machine(arguments.device),
        gpus=arguments.gpus,
        dtype=arguments.dtype or "the server's default",
        model=arguments.model.name,
        in_flight=arguments.in_flight,
        command="bench/quality/run_comparison.py " + " ".join(sys.argv[1:]),
    )
    path = work.out / "results" / f"machine-{arguments.part.replace('/', '-of-')}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(said, indent=1) + "\n")


def work_through(work: Comparison, arguments) -> bool:
    """Whether all of this part is done."""
    _keep_machine(work, arguments)
    deadline = serving.Deadline(arguments.minutes * 60 if arguments.minutes else None)

    def open_fleet(way):
        return serving.Fleet(arguments.model, way, arguments.device, arguments.dtype, arguments.gpus)

    try:
        for shard in _part_of(arguments.part, work.plan.shards):
            draw_shard(work, shard, open_fleet, arguments, deadline)
    except serving.OutOfTime:
        return False
    return True


def main() -> None:
    arguments = parse()
    if arguments.bin:
        end_to_end.BIN = arguments.bin.resolve()
    what = _plan_of(arguments)
    if arguments.write_plan:
        print(json.dumps(plan.as_json(what), indent=1))
        return
    _exact_arithmetic()
    lpips = pairs.Lpips(arguments.lpips, arguments.device) if arguments.lpips else None
    work = Comparison(arguments.out, what, arguments.device, lpips)
    finished = arguments.report_only or work_through(work, arguments)
    if not arguments.no_report and (arguments.report_only or work.done()):
        from bench.quality import report

        print(report.write(work, arguments.resamples))
    if not finished:
        print("time is up: the same command goes on from here")
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    errors.run(main, "run_comparison")
