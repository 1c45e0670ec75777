#!/usr/bin/env python3
"""Stock diffusers from a prompt to a written PNG: seconds an image, bfloat16, another prompt each time, beside
bench/end_to_end.py on the same folder.

    bench/peers/diffusers_pipeline.py MODEL_DIR [--size 1024] [--steps 20] [--compile] [--images 5] [--json FILE]
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

import torch
from diffusers import PixArtAlphaPipeline

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from bench.end_to_end import prompt_of  # noqa: E402


def image_s(pipeline, seed: int, arguments, folder: pathlib.Path) -> float:
    began = time.monotonic()
    drawn = pipeline(
        prompt_of(seed),
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        height=arguments.size,
        width=arguments.size,
        max_sequence_length=arguments.text_length,
        generator=torch.Generator("cpu").manual_seed(seed),
        clean_caption=False,
        use_resolution_binning=False,
    )
    drawn.images[0].save(folder / f"{seed}.png")
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--text-length", type=int, default=120)
    parser.add_argument("--compile", action="store_true", help="the transformer, mode reduce-overhead")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    pipeline = PixArtAlphaPipeline.from_pretrained(arguments.model, torch_dtype=torch.bfloat16).to("cuda")
    pipeline.set_progress_bar_config(disable=True)
    if arguments.compile:
        pipeline.transformer = torch.compile(pipeline.transformer, mode="reduce-overhead")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        warm_up = [image_s(pipeline, seed, arguments, folder) for seed in (1000, 1001)]
        times = [image_s(pipeline, seed, arguments, folder) for seed in range(arguments.images)]
    report = {
        "peer": "diffusers" + (", compiled transformer" if arguments.compile else ""),
        "device": torch.cuda.get_device_name(),
        "size_px": arguments.size,
        "steps": arguments.steps,
        "first_image_s": warm_up[0],
        "image_s": statistics.median(times),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }
    print(json.dumps(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
