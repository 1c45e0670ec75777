#!/usr/bin/env python3
"""Stock diffusers decoding at Stable Diffusion's size, random weights, one GPU: milliseconds (median) and peak memory
over weights and output. What bench-vae does, in one run with it.

    bench/peers/diffusers_vae.py [--sizes 1024,2048,4096] [--dtype fp16|bf16] [--json FILE]
"""

import argparse
import json
import pathlib
import sys

import torch
from diffusers_step import median_ms

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import full_size_model  # noqa: E402

SCALE = 8
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def repeats_at(size_px: int) -> tuple[int, int]:
    """Warm-up and measured runs, as bench-vae has them."""
    if size_px <= 2048:
        return 3, 15
    return (2, 5) if size_px <= 4096 else (1, 3)


def measure(vae, size_px: int, dtype: torch.dtype) -> dict:
    latents = torch.randn(1, 4, size_px // SCALE, size_px // SCALE, device="cuda", dtype=dtype)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        ms = median_ms(lambda: vae.decode(latents, return_dict=False), *repeats_at(size_px))
    except torch.cuda.OutOfMemoryError:
        return {"size_px": size_px, "error": "out of memory"}
    output_bytes = size_px * size_px * 3 * latents.element_size()
    peak_bytes = torch.cuda.max_memory_allocated() - before - output_bytes
    return {"size_px": size_px, "ms": ms, "peak_gb": peak_bytes / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", default="1024,2048,4096")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dtype = DTYPES[arguments.dtype]
    with torch.device("cuda"):
        vae = full_size_model.vae().to(dtype).eval()
    rows = []
    with torch.inference_mode():
        for size_px in map(int, arguments.sizes.split(",")):
            rows.append(measure(vae, size_px, dtype))
            print(json.dumps(rows[-1]), flush=True)
    report = {
        "machine": torch.cuda.get_device_name(),
        "peer": "diffusers",
        "dtype": arguments.dtype,
        "rows": rows,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
