#!/usr/bin/env python3
"""Trains the bundled model, phase by phase, each within a given time of the wall clock.

    models/train/run.py --phase vae,decoder,checker --minutes 3.4,2.4,0.8 --out DIR
    models/train/run.py --phase diffusion --minutes 7.9 --out DIR [--resume DIR]

Phases: vae, decoder (needs vae), checker (needs vae), diffusion (needs vae). A phase continues from
the weights of its network in --out, or else in --resume, if there are any, and otherwise starts
from nothing; what the other phases made is copied from --resume to --out. The minutes of the first
phase count from the start of the process, and each phase ends a little before its time to save.
"""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
for unwanted in ("USE_TF", "USE_FLAX", "USE_JAX"):  # transformers would load them
    os.environ.setdefault(unwanted, "0")
os.environ.setdefault("USE_TORCH", "1")

PHASES = ("vae", "decoder", "checker", "diffusion")
CLOSING_SECONDS = dict(vae=5, decoder=5, checker=8, diffusion=7)  # to measure and save


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--phase", required=True, help="one or more, in order, with commas")
    parser.add_argument("--minutes", required=True, help="as many numbers, with commas")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--resume", type=pathlib.Path)
    parser.add_argument("--recipe", choices=("full", "toy"), default="full")
    parser.add_argument(
        "--steps", type=int, help="end each phase after so many steps at the latest"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument(
        "--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="that make scenes"
    )
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args(arguments)
    parsed.phases = parsed.phase.split(",")
    for phase in parsed.phases:
        if phase not in PHASES:
            parser.error(f"--phase: {phase!r} is none of {', '.join(PHASES)}")
    try:
        parsed.budgets = [float(number) for number in parsed.minutes.split(",")]
    except ValueError:
        parser.error(f"--minutes: {parsed.minutes!r} is not numbers with commas between")
    if len(parsed.budgets) != len(parsed.phases) or min(parsed.budgets) <= 0:
        parser.error(f"--minutes: as many positive numbers as phases, {len(parsed.phases)}")
    return parsed


def run_phases(parsed, maker):
    """Runs the phases in order. Only this loads torch, while the maker's processes work."""
    import torch

    from models.train import autoencoder, checking, clock, diffusion, recipe, run_directory, studio

    run = dict(
        vae=autoencoder.train_vae,
        decoder=autoencoder.train_decoder,
        checker=checking.train_checker,
        diffusion=diffusion.train_diffusion,
    )
    device = parsed.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(parsed.seed)
    directory = run_directory.RunDirectory(parsed.out, parsed.resume)
    work = studio.Studio(recipe.RECIPES[parsed.recipe], directory, device, maker)
    clock.log(f"torch {torch.__version__} on {device}, {parsed.recipe} recipe")
    ends_at = clock.PROCESS_STARTED_AT
    for phase, minutes in zip(parsed.phases, parsed.budgets):
        ends_at += 60 * minutes
        timetable = clock.Timetable(
            ends_at - CLOSING_SECONDS[phase], work.synchronize, parsed.steps
        )
        figures = run[phase](work, timetable)
        seconds = round(timetable.seconds, 1)
        directory.note(phase, steps=timetable.done, seconds=seconds, seed=parsed.seed, **figures)


def main(arguments=None):
    parsed = parse(arguments)
    from models.train import clock, pool, recipe

    clock.log(f"phases {parsed.phase}, minutes {parsed.minutes}")
    orders = pool.orders_for(recipe.RECIPES[parsed.recipe], parsed.phases, parsed.seed)
    with pool.PoolMaker(orders, parsed.processes) as maker:
        run_phases(parsed, maker)
    clock.log("done")


if __name__ == "__main__":
    main()
