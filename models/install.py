#!/usr/bin/env python3
"""Puts what the training runs left in its place, as the bundled model.

    models/install.py RUN_DIR [--models DIR]

From the four networks of RUN_DIR it makes shapes-256 (fp16, the transformer in two shards) and
checker/checker.safetensors. progress.json, evaluation.json and grid.png of RUN_DIR are kept beside
them as training.json, evaluation.json and grid.png. Where evaluation.json holds a sweep, its best
guidance and the steps of the judged images become the model's defaults, in shapes-256/patchflow.json,
which Patchflow reads and diffusers ignores. Nothing is replaced unless the new model is no larger
than 20 MB and stock diffusers draws with it.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
for unwanted in ("USE_TF", "USE_FLAX", "USE_JAX"):  # transformers would load them
    os.environ.setdefault(unwanted, "0")

HERE = pathlib.Path(__file__).resolve().parent
NAME = "shapes-256"
MAX_BYTES = 20_000_000
KEPT = {
    "progress.json": "training.json",
    "evaluation.json": "evaluation.json",
    "grid.png": "grid.png",
}


def draws(model):
    """Whether stock diffusers loads the directory and draws something that is no flat colour."""
    import numpy as np
    import torch
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a red circle",
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(0),
        clean_caption=False,
        use_resolution_binning=False,
        output_type="np",
    ).images[0]
    return bool(np.isfinite(image).all()) and image.std() > 0


def write_defaults(run, model):
    """Writes patchflow.json if the run's figures tell the best guidance."""
    file = run / "evaluation.json"
    figures = json.loads(file.read_text()) if file.exists() else {}
    if "best_guidance" not in figures:
        return
    defaults = dict(
        default_guidance_scale=figures["best_guidance"], default_steps=figures["drawn"]["steps"]
    )
    (model / "patchflow.json").write_text(json.dumps(defaults, indent=2) + "\n")


def install(run, models, recipe):
    from models.train.export import export

    fresh = models / f"{NAME}.new"
    size = export(run, fresh, recipe.networks)
    write_defaults(run, fresh)
    if size > MAX_BYTES:
        raise ValueError(f"{fresh}: {size} bytes, limit {MAX_BYTES}")
    if not draws(fresh):
        raise ValueError(f"{fresh}: stock diffusers draws nothing with it")
    target = models / NAME
    if target.exists():
        shutil.rmtree(target)
    fresh.rename(target)
    (models / "checker").mkdir(exist_ok=True)
    shutil.copyfile(run / "checker.safetensors", models / "checker" / "checker.safetensors")
    for source, name in KEPT.items():
        if (run / source).exists():
            shutil.copyfile(run / source, models / name)
    return size


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--models", type=pathlib.Path, default=HERE)
    parser.add_argument("--recipe", choices=("full", "toy"), default="full")
    arguments = parser.parse_args()
    from models.train.recipe import RECIPES

    size = install(arguments.run, arguments.models, RECIPES[arguments.recipe])
    print(f"{arguments.models / NAME}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
