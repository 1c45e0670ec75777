"""PixArt's transformer by diffusers, for tests/engine/models/pixart_test.cc and tests/engine/denoiser_test.cc.

Writes pixart/<variant>/ (tiny transformers, stored as float16, computed in float32), pixart/old_class.json (a config for
the weights of alpha), pixart/expected.safetensors (inputs and outputs) and pixart/denoised.safetensors (latents of the
bundled model). Made with diffusers 0.35.2 and torch 2.11.0 on a CPU; run it again after changing it:
    python3 tests/golden/pixart.py
"""

import json
import pathlib
import shutil

import diffusers
import make_tiny_model
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "pixart"
CASES = {  # Latent rows and columns, timestep, real tokens of each of two prompts, text tokens.
    "alpha": (6, 10, 731, (3, 7), 7),
    "sigma": (12, 8, 40, (1, 9), 11),
    "conditions": (10, 6, 999, (4, 2), 5),
    "odd_blocks": (16, 16, 250, (5, 5), 5),
}


def mask_of(real: tuple[int, ...], tokens: int) -> torch.Tensor:
    return (torch.arange(tokens)[None] < torch.tensor(real)[:, None]).long()


def saved_transformer(name: str) -> diffusers.PixArtTransformer2DModel:
    make_tiny_model.save_transformer(name, OUT / name, torch.float16)
    return diffusers.PixArtTransformer2DModel.from_pretrained(OUT / name, torch_dtype=torch.float32).eval()


def forward(name: str, tensors: dict[str, torch.Tensor]) -> None:
    rows, columns, timestep, real, tokens = CASES[name]
    model = saved_transformer(name)
    torch.manual_seed(7)
    x = torch.randn(2, 4, rows, columns)
    text = torch.randn(2, tokens, make_tiny_model.TEXT_WIDTH)
    mask = mask_of(real, tokens)
    size = {
        "resolution": torch.tensor([rows * 8.0, columns * 8.0]).repeat(2, 1),
        "aspect_ratio": torch.tensor([rows / columns]).repeat(2, 1),
    }
    seen = {}
    first = model.transformer_blocks[0]
    first.register_forward_hook(lambda _, given, result: seen.update(block_in=given[0], block_out=result))
    out = model(
        x,
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        timestep=torch.tensor([timestep, timestep]),
        added_cond_kwargs=size if model.use_additional_conditions else {"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]
    found = {"x": x, "text": text, "mask": mask, "timestep": torch.tensor([float(timestep)]), "out": out[:, :4]}
    tensors |= {f"{name}.{key}": value.contiguous() for key, value in (found | seen).items()}


def denoise(scheduler, steps: int, rows: int, columns: int, guidance: float) -> dict[str, torch.Tensor]:
    model = diffusers.PixArtTransformer2DModel.from_pretrained(
        make_tiny_model.BUNDLED / "transformer", torch_dtype=torch.float32
    ).eval()
    branches = 1 if guidance == 1 else 2
    torch.manual_seed(11)
    noise = torch.randn(1, 4, rows, columns)
    text = torch.randn(branches, 10, 128)
    mask = mask_of((2, 8)[-branches:], 10)
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(torch.cat([x] * branches), t)
        out = model(
            given,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=t.expand(branches),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        if branches == 2:
            negative, positive = out.chunk(2)
            out = negative + guidance * (positive - negative)
        x = scheduler.step(out.chunk(2, dim=1)[0], t, x, return_dict=False)[0]
    return {"noise": noise, "text": text, "mask": mask, "latents": x}


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    tensors = {}
    with torch.inference_mode():
        for name in CASES:
            forward(name, tensors)
        own = diffusers.DPMSolverMultistepScheduler.from_pretrained(make_tiny_model.BUNDLED / "scheduler")
        runs = {
            "dpm": denoise(own, 4, 32, 32, 4.5),
            "ddim": denoise(diffusers.DDIMScheduler.from_config(own.config, clip_sample=False), 3, 24, 40, 1),
            "euler": denoise(diffusers.EulerDiscreteScheduler.from_config(own.config), 3, 16, 32, 7.5),
        }
    config = json.loads((OUT / "alpha" / "config.json").read_text()) | make_tiny_model.OLD_FIELDS
    (OUT / "old_class.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, OUT / "expected.safetensors")
    save_file(
        {f"{run}.{key}": value.contiguous() for run, found in runs.items() for key, value in found.items()},
        OUT / "denoised.safetensors",
    )
    for file in OUT.glob("*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    main()
