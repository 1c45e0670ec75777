#!/usr/bin/env python3
"""Split a diffusers component's weights into safetensors shards with an index, or compare two.

    models/shard.py DIR [--shards 2]          replaces DIR/diffusion_pytorch_model.safetensors
    models/shard.py DIR --same-as OTHER_DIR   fails unless both hold the same tensors, byte for byte

Names are diffusers' own (`diffusion_pytorch_model-00001-of-00002.safetensors`,
`diffusion_pytorch_model.safetensors.index.json`), so stock `from_pretrained` reads the result.
Needs only numpy and safetensors; the stored element type is kept.
"""

import argparse
import json
import pathlib
import sys

from safetensors.numpy import load_file, save_file

STEM = "diffusion_pytorch_model"
WHOLE = f"{STEM}.safetensors"
INDEX = f"{WHOLE}.index.json"
METADATA = {"format": "pt"}  # without it transformers and diffusers refuse the file


def read_component(directory):
    """All tensors of a component by name, from one file or from the shards that its index lists."""
    directory = pathlib.Path(directory)
    if (directory / WHOLE).exists():
        return load_file(directory / WHOLE)
    index = json.loads((directory / INDEX).read_text())
    tensors = {}
    for name in sorted(set(index["weight_map"].values())):
        tensors.update(load_file(directory / name))
    if tensors.keys() != index["weight_map"].keys():
        raise ValueError(f"{directory / INDEX}: shards and weight_map name different tensors")
    return tensors


def balanced(tensors, shards):
    """Cuts the sorted names into `shards` runs of about equal bytes; no run is empty."""
    if not 1 <= shards <= len(tensors):
        raise ValueError(f"shards: {shards} is not in 1..{len(tensors)}, the number of tensors")
    names = sorted(tensors)
    total = sum(tensors[name].nbytes for name in names)
    runs, done = [[]], 0
    for position, name in enumerate(names):
        left_names, left_runs = len(names) - position, shards - len(runs)
        full = done >= total * len(runs) / shards
        if runs[-1] and left_runs and (full or left_names == left_runs):
            runs.append([])
        runs[-1].append(name)
        done += tensors[name].nbytes
    return runs


def write_shards(directory, tensors, shards):
    """Writes the shards and the index, then removes the single file."""
    directory = pathlib.Path(directory)
    runs = balanced(tensors, shards)
    weight_map = {}
    for number, run in enumerate(runs, 1):
        file = f"{STEM}-{number:05d}-of-{len(runs):05d}.safetensors"
        save_file({name: tensors[name] for name in run}, directory / file, metadata=METADATA)
        (directory / file).chmod(0o644)
        weight_map.update(dict.fromkeys(run, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (directory / WHOLE).unlink(missing_ok=True)


def same_tensors(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--same-as", type=pathlib.Path)
    arguments = parser.parse_args()
    tensors = read_component(arguments.directory)
    if arguments.same_as:
        same = same_tensors(tensors, read_component(arguments.same_as))
        sys.exit(0 if same else "the tensors differ")
    write_shards(arguments.directory, tensors, arguments.shards)


if __name__ == "__main__":
    main()
