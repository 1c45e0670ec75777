#!/usr/bin/env python3
"""Measures the bundled model: does it draw what the prompt says, and how well does its VAE restore?

    models/evaluate.py [--prompts 500] [--steps 20] [--guidance 4.5] [--json FILE] [--grid FILE]
    models/evaluate.py --sweep 2,3,4.5,6,7.5 --prompts 200         which guidance is best
    models/evaluate.py --write-prompts FILE --prompts 60           a prompt a line, for any program
    models/evaluate.py --images DIR --captions FILE                judges what that program drew

Images are made by stock diffusers and judged by the checker network. Each prompt asks for a
combination that training never showed (see train/scenes.py). "shown" is the share of images that
show every thing of the prompt with its colour in its place; "exact" those that show nothing else;
"sized" those with the right sizes; "background" those with the right background, of the prompts
that say one; "confidence" the probability that the checker gives to the right things. Prompt
number N, from 0, is drawn from seed N. In a folder, the images sorted by name belong to the lines
of the caption file.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
for unwanted in ("USE_TF", "USE_FLAX", "USE_JAX"):  # transformers would load them
    os.environ.setdefault(unwanted, "0")

HERE = pathlib.Path(__file__).resolve().parent
MODEL = HERE / "shapes-256"
CHECKER = HERE / "checker" / "checker.safetensors"
JUDGED_SEED = 777
ALL_PROMPTS = 500
VAE_SEED = 888
GRID_SIDE = 4
GRID_GAP_PX = 4
JUDGED_AT_ONCE = 50
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def judged_scenes(count):
    """The first `count` of the judged scenes, always the same ones."""
    import random

    from models.train import scenes

    return scenes.judged_scenes(random.Random(JUDGED_SEED), count)


def as_pool(scenes, device):
    import numpy as np

    from models.train import pool, tokenizer

    return pool.pack(scenes, np.random.default_rng(VAE_SEED), tokenizer.encode).to(device)


def as_tensor(images, device):
    """PIL images to [N, 3, H, W] float32 in -1..1."""
    import numpy as np
    import torch

    arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(arrays).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def says_background(caption):
    """Whether the caption names the background: three quarters of them do."""
    return "background" in caption or "gradient" in caption


def verdicts(checker, images, scenes, device):
    """Means over the images of what a Verdict holds, and for each image whether it was shown."""
    import torch

    from models.train.checker import Verdict, judge

    parts = []
    for first in range(0, len(scenes), JUDGED_AT_ONCE):
        some = slice(first, first + JUDGED_AT_ONCE)
        pool = as_pool(scenes[some], device)
        parts.append(judge(checker, as_tensor(images[some], device), pool))
    whole = Verdict(*(torch.cat(columns).float() for columns in zip(*parts)))
    means = {name: round(value.mean().item(), 4) for name, value in whole._asdict().items()}
    said = torch.tensor([says_background(scene.caption) for scene in scenes], device=device)
    means["background"] = round(whole.background[said].mean().item(), 4) if said.any() else None
    return means, whole.shown.bool().tolist()


class Painter:
    """Stock diffusers on a directory."""

    def __init__(self, arguments):
        import torch
        from diffusers import PixArtAlphaPipeline

        self._torch = torch
        self._batch = arguments.batch
        dtype = dict(fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)[arguments.dtype]
        pipeline = PixArtAlphaPipeline.from_pretrained(arguments.model, torch_dtype=dtype)
        self.pipeline = pipeline.to(arguments.device)
        self.pipeline.set_progress_bar_config(disable=True)

    def paint(self, scenes, steps, guidance):
        images = []
        for first in range(0, len(scenes), self._batch):
            some = scenes[first : first + self._batch]
            seeds = range(first, first + len(some))
            images += self.pipeline(
                [scene.caption for scene in some],
                num_inference_steps=steps,
                guidance_scale=guidance,
                clean_caption=False,
                use_resolution_binning=False,
                generator=[self._torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            ).images
        return images


def vae_psnr(vae, count, device, batch):
    """Mean over held-out scenes of the PSNR in dB of what the VAE restores."""
    import torch

    from models.train.render import Renderer

    renderer, scores = Renderer(device), []
    scenes = as_pool(judged_scenes(count), device)
    with torch.no_grad():
        for rows in torch.arange(count, device=device).split(batch):
            image = renderer(scenes, rows)
            latents = vae.encode(image.to(vae.dtype)).latent_dist.mean
            restored = vae.decode(latents).sample.float().clamp(-1, 1)
            scores.append(-10 * torch.log10((restored - image).pow(2).mean((1, 2, 3)) / 4))
    return round(torch.cat(scores).mean().item(), 3)


def machine(device):
    """What ran it, in words."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def save_grid(images, scenes, shown, path):
    """Images 0, n/16, 2n/16, ...: unpicked. Returns their prompts and verdicts."""
    from PIL import Image

    cell = images[0].width + GRID_GAP_PX
    side = GRID_SIDE * cell - GRID_GAP_PX
    grid, told = Image.new("RGB", (side, side)), []
    for place in range(GRID_SIDE**2):
        number = place * len(images) // GRID_SIDE**2
        row, column = divmod(place, GRID_SIDE)
        grid.paste(images[number], (column * cell, row * cell))
        told.append(dict(prompt=scenes[number].caption, seed=number, shown=shown[number]))
    grid.save(path, optimize=True)
    return told


def judge_folder(arguments, checker):
    """Verdicts on the images of a folder, whose captions must be judged prompts."""
    from PIL import Image

    captions = arguments.captions.read_text(encoding="utf-8").splitlines()
    known = {scene.caption: scene for scene in judged_scenes(ALL_PROMPTS)}
    unknown = [caption for caption in captions if caption not in known]
    if unknown:
        sys.exit(
            f"{arguments.captions}: not one of the {ALL_PROMPTS} judged prompts: {unknown[0]!r}"
        )
    files = sorted(p for p in arguments.images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) != len(captions) or not files:
        sys.exit(f"{arguments.images}: {len(files)} images, but {len(captions)} captions")
    images = [Image.open(file) for file in files]
    scenes = [known[caption] for caption in captions]
    means, shown = verdicts(checker, images, scenes, arguments.device)
    failed = [file.name for file, good in zip(files, shown) if not good]
    return dict(images=len(files), **means, not_shown=failed)


class Report:
    """Prints figures as they come and keeps them in a file, so that a run cut short leaves some."""

    def __init__(self, path, arguments):
        self._path = path
        self._figures = dict(command="models/evaluate.py " + " ".join(arguments))

    def add(self, name, value):
        print(f"{name}: {json.dumps(value)}", flush=True)
        self._figures[name] = value
        self._keep()

    def append(self, name, value):
        """Adds a value to a list."""
        print(f"{name}: {json.dumps(value)}", flush=True)
        self._figures.setdefault(name, []).append(value)
        self._keep()

    def _keep(self):
        if self._path:
            self._path.write_text(json.dumps(self._figures, indent=1) + "\n")


def best_guidance(sweep):
    """The guidance with most images shown; among equals most exact, most confident, highest."""
    rank = ("shown", "exact", "confidence", "guidance")
    return max(sweep, key=lambda entry: tuple(entry[name] for name in rank))["guidance"]


def measure_model(arguments, checker, report):
    painter = Painter(arguments)
    scenes = judged_scenes(arguments.prompts)
    settings = dict(prompts=len(scenes), steps=arguments.steps, dtype=arguments.dtype)
    started = time.monotonic()
    images = painter.paint(scenes, arguments.steps, arguments.guidance)
    seconds = round(time.monotonic() - started, 1)
    means, shown = verdicts(checker, images, scenes, arguments.device)
    report.add("drawn", dict(settings, guidance=arguments.guidance, **means, seconds=seconds))
    report.add("not_shown", [s.caption for s, good in zip(scenes, shown) if not good])
    if arguments.grid:
        report.add("grid", save_grid(images, scenes, shown, arguments.grid))
    vae, count = painter.pipeline.vae, arguments.vae_scenes
    psnr = vae_psnr(vae, count, arguments.device, min(arguments.batch, 32))
    report.add("vae", dict(scenes=count, psnr_db=psnr, dtype=arguments.dtype))
    if arguments.sweep:
        some, entries = scenes[: arguments.sweep_prompts], []
        for guidance in arguments.sweep:
            images = painter.paint(some, arguments.steps, guidance)
            means, _ = verdicts(checker, images, some, arguments.device)
            entries.append(dict(settings, prompts=len(some), guidance=guidance, **means))
            report.append("sweep", entries[-1])
        report.add("best_guidance", best_guidance(entries))


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=pathlib.Path, default=MODEL)
    add("--checker", type=pathlib.Path, default=CHECKER)
    add("--checker-width", type=int, default=32)
    add("--prompts", type=int, default=ALL_PROMPTS)
    add("--steps", type=int, default=20)
    add("--guidance", type=float, default=4.5)
    add("--sweep", type=lambda text: [float(number) for number in text.split(",")])
    add("--sweep-prompts", type=int, default=ALL_PROMPTS, help="at each guidance of the sweep")
    add("--vae-scenes", type=int, default=256)
    add("--batch", type=int, default=10)
    add("--device", choices=("auto", "cuda", "cpu"), default="auto")
    add("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    add("--json", type=pathlib.Path, help="keep the figures")
    add("--grid", type=pathlib.Path, help="keep 16 unpicked images")
    add("--write-prompts", type=pathlib.Path, metavar="FILE")
    add("--images", type=pathlib.Path, metavar="DIR")
    add("--captions", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    if not GRID_SIDE**2 <= arguments.prompts <= ALL_PROMPTS:
        parser.error(f"--prompts: {arguments.prompts} is not in {GRID_SIDE**2}..{ALL_PROMPTS}")
    if bool(arguments.images) != bool(arguments.captions):
        parser.error("--images and --captions go together")
    return arguments


def main():
    arguments = parse()
    if arguments.write_prompts:
        captions = [scene.caption for scene in judged_scenes(arguments.prompts)]
        arguments.write_prompts.write_text("\n".join(captions) + "\n", encoding="utf-8")
        return
    import torch

    from models.train.checker import load_checker

    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    report = Report(arguments.json, sys.argv[1:])
    report.add("machine", machine(arguments.device))
    checker = load_checker(arguments.checker, arguments.checker_width, arguments.device)
    if arguments.images:
        report.add("judged", judge_folder(arguments, checker))
    else:
        measure_model(arguments, checker, report)


if __name__ == "__main__":
    main()
