#!/usr/bin/env python3
"""Makes a diffusers directory of what the training runs left.

    models/train/export.py --run DIR --model DIR [--recipe full|toy]

fp16, the transformer in two shards, loadable by stock diffusers as PixArtAlphaPipeline.
"""

import argparse
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
for unwanted in ("USE_TF", "USE_FLAX", "USE_JAX"):  # transformers would load them
    os.environ.setdefault(unwanted, "0")

SHARDS = 2
MAX_PROMPT_TOKENS = 120


def make_pipeline(directory, sizes):
    """The pipeline of a RunDirectory's networks, in fp16."""
    from diffusers import PixArtAlphaPipeline
    from transformers import T5Tokenizer

    from models.train import networks, tokenizer

    vae = networks.make_vae(sizes)
    notes = directory.load("vae", vae)
    vae.register_to_config(scaling_factor=float(notes["scaling_factor"]))
    text_encoder = networks.make_text_encoder(sizes)
    transformer = networks.make_transformer(sizes)
    directory.load("text_encoder", text_encoder)
    directory.load("transformer", transformer)
    return PixArtAlphaPipeline(
        tokenizer=T5Tokenizer(
            vocab_file=str(tokenizer.MODEL),
            extra_ids=0,
            legacy=False,
            model_max_length=MAX_PROMPT_TOKENS,
        ),
        text_encoder=text_encoder.half(),
        vae=vae.half(),
        transformer=transformer.half(),
        scheduler=networks.make_scheduler(),
    )


def export(run, model, sizes):
    """Writes `model` anew; what was there is replaced only once the new directory is whole."""
    from models import shard
    from models.train.run_directory import RunDirectory

    unfinished = model.with_name(model.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make_pipeline(RunDirectory(run), sizes).save_pretrained(unfinished)
    component = unfinished / "transformer"
    shard.write_shards(component, shard.read_component(component), SHARDS)
    for path in unfinished.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if model.exists():
        shutil.rmtree(model)
    unfinished.rename(model)
    return sum(path.stat().st_size for path in model.rglob("*") if path.is_file())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--recipe", choices=("full", "toy"), default="full")
    arguments = parser.parse_args()
    from models.train.recipe import RECIPES

    size = export(arguments.run, arguments.model, RECIPES[arguments.recipe].networks)
    print(f"{arguments.model}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
