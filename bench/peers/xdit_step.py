#!/usr/bin/env python3
"""xDiT at PixArt-XL/2's shape: milliseconds of a denoising step (guidance batch of two, latents only), an image of 20
steps shared among them, random weights, float16 as its examples have it. One process for each GPU:

    torchrun --nproc-per-node 2 bench/peers/xdit_step.py --layout ulysses=2 [--sizes 1024,2048] [--json FILE]

LAYOUT is ours: guidance, ulysses, ring, pipefusion with patches and warmup_steps. xDiT has no DistriFusion, and no
tensor parallelism for PixArt; its ring needs flash-attn. Needs xfuser, yunchang, distvae and diffusers, beside
transformers, accelerate, einops and peft: 0.7.0, 0.6.4, 0.1.0 and 0.42.1 go with transformers 5.17.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
import torch.distributed
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline
from xfuser import xFuserArgs, xFuserPixArtAlphaPipeline
from xfuser.config import FlexibleArgumentParser
from xfuser.core.distributed import get_world_group

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import full_size_model  # noqa: E402
from suite.layout import Layout  # noqa: E402

DTYPE = torch.float16
STEPS = 20
LARGE_PX = 4096
LARGE_STEPS = 6  # From 4096 px on; of an image that is measured once.


def xdit_flags(layout: Layout) -> list:
    if layout.distrifusion > 1 or layout.tensor > 1:
        raise ValueError(f"--layout: xDiT has no '{layout}'")
    flags = ["--model", "random", "--ulysses_degree", str(layout.ulysses), "--ring_degree", str(layout.ring)]
    if layout.pipefusion > 1:
        flags += ["--pipefusion_parallel_degree", str(layout.pipefusion), "--num_pipeline_patch", str(layout.patches)]
        flags += ["--warmup_steps", str(layout.warmup_steps)]
    return flags + (["--use_cfg_parallel"] if layout.guidance == 2 else [])


def pipeline(engine_config, device: torch.device):
    """Every rank draws the same weights."""
    torch.manual_seed(0)
    with device:
        transformer, vae = full_size_model.transformer(sigma=False), full_size_model.vae()
    stock = PixArtAlphaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae.to(DTYPE).eval(),
        transformer=transformer.to(DTYPE).eval(),
        scheduler=DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"),
    )
    wrapped = xFuserPixArtAlphaPipeline(stock, engine_config).to(device)
    wrapped.set_progress_bar_config(disable=True)
    return wrapped


class Image:
    """Latents of an image, from texts that are encoded already."""

    def __init__(self, wrapped, device: torch.device):
        generator = torch.Generator(device).manual_seed(1)
        self.wrapped, self.device = wrapped, device
        self.texts = [torch.randn(1, 120, 4096, device=device, dtype=DTYPE, generator=generator) for _ in range(2)]
        self.mask = torch.ones(1, 120, device=device)

    def ms(self, size_px: int, steps: int) -> float:
        """On the last rank to finish."""
        torch.cuda.synchronize()
        torch.distributed.barrier()
        began = time.monotonic()
        self.wrapped(
            prompt=None,
            negative_prompt=None,
            prompt_embeds=self.texts[0],
            prompt_attention_mask=self.mask,
            negative_prompt_embeds=self.texts[1],
            negative_prompt_attention_mask=self.mask,
            height=size_px,
            width=size_px,
            num_inference_steps=steps,
            guidance_scale=4.5,
            output_type="latent",
            use_resolution_binning=False,
            generator=torch.Generator(self.device).manual_seed(42),
        )
        torch.cuda.synchronize()
        torch.distributed.barrier()
        return (time.monotonic() - began) * 1e3


def measure(image: Image, size_px: int, images: int) -> dict:
    steps = STEPS if size_px < LARGE_PX else LARGE_STEPS
    image.ms(size_px, steps)
    torch.cuda.reset_peak_memory_stats()
    times = [image.ms(size_px, steps) for _ in range(images if size_px < LARGE_PX else 1)]
    peak = torch.tensor([torch.cuda.max_memory_allocated() / 1e9], device=image.device, dtype=torch.float64)
    torch.distributed.all_reduce(peak, torch.distributed.ReduceOp.MAX)
    image_ms = statistics.median(times)
    return {
        "size_px": size_px,
        "step_ms": image_ms / steps,
        "image_ms": image_ms,
        "steps": steps,
        "peak_gb": peak.item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--layout", default="serial")
    parser.add_argument("--sizes", default="1024,2048")
    parser.add_argument("--images", type=int, default=3, help="The median is reported")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    layout = Layout.parse(arguments.layout)
    flags = xFuserArgs.add_cli_args(FlexibleArgumentParser()).parse_args(xdit_flags(layout))
    engine_config, _ = xFuserArgs.from_cli_args(flags).create_config()
    world = get_world_group()
    if torch.distributed.get_world_size() != layout.ranks:
        raise ValueError(f"--layout: '{layout}' is for {layout.ranks} ranks, not {torch.distributed.get_world_size()}")
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    image = Image(pipeline(engine_config, device), device)
    rows = []
    for size_px in map(int, arguments.sizes.split(",")):
        rows.append({"layout": str(layout), "gpus": layout.ranks} | measure(image, size_px, arguments.images))
        if world.rank == 0:
            print(json.dumps(rows[-1]), flush=True)
            if arguments.json:
                report = {"machine": torch.cuda.get_device_name(), "peer": "xDiT", "rows": rows}
                arguments.json.write_text(json.dumps(report, indent=1))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
