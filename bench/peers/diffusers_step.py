#!/usr/bin/env python3
"""Stock diffusers at PixArt-XL/2's shape: milliseconds of one denoising step (guidance batch of two, latents only),
random weights, bfloat16, median of 20 after 5.

    bench/peers/diffusers_step.py [--sizes 1024,2048] [--compile [--mode MODE]] [--repeats 20] [--warm-up 5] [--json FILE]
"""

import argparse
import json
import pathlib
import statistics
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import full_size_model  # noqa: E402


def median_ms(run, warm_up: int, repeats: int) -> float:
    for _ in range(warm_up):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def step(model, size_px: int):
    side = size_px // 8
    options = {"device": "cuda", "dtype": torch.bfloat16}
    latents = torch.randn(2, 4, side, side, **options)
    text = torch.randn(2, 120, 4096, **options)
    mask = torch.ones(2, 120, **options)
    timestep = torch.tensor([500, 500], device="cuda")
    size = {
        "resolution": torch.tensor([[size_px, size_px]] * 2, **options),
        "aspect_ratio": torch.tensor([[1.0]] * 2, **options),
    }

    def run():
        model(
            latents,
            encoder_hidden_states=text,
            timestep=timestep,
            encoder_attention_mask=mask,
            added_cond_kwargs=size,
            return_dict=False,
        )

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", default="1024,2048")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--mode", default="reduce-overhead", help="of torch.compile; max-autotune takes minutes")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = full_size_model.transformer(sigma=False).eval()
    rows = []
    with torch.inference_mode():
        for size_px in map(int, arguments.sizes.split(",")):
            repeats = (arguments.warm_up, arguments.repeats)
            torch.cuda.reset_peak_memory_stats()
            row = {"size_px": size_px, "eager_ms": median_ms(step(model, size_px), *repeats)}
            row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            if arguments.compile:
                compiled = torch.compile(model, mode=arguments.mode)
                row["compiled_ms"] = median_ms(step(compiled, size_px), *repeats)
            rows.append(row)
            print(json.dumps(row), flush=True)
    report = {"machine": torch.cuda.get_device_name(), "peer": "diffusers", "rows": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
