#!/usr/bin/env python3
"""Writes a full-size PixArt-XL/2 pipeline directory with random weights, to measure with: no real weights are needed
for times and memory. Text encoder of T5-XXL's size, Stable Diffusion's VAE, the bundled model's tokenizer.

    bench/full_size_model.py DIR [--device cuda] [--text-layers 24] [--sigma]

Needs diffusers and transformers; 12 GB of disk with the text encoder.
"""

import argparse
import json
import pathlib
import shutil

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from transformers import T5Config, T5EncoderModel

TOKENIZER = pathlib.Path(__file__).resolve().parent.parent / "models" / "shapes-256" / "tokenizer"


def transformer(sigma: bool) -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        norm_num_groups=32,
        cross_attention_dim=1152,
        attention_bias=True,
        sample_size=128,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=4096,
        use_additional_conditions=not sigma,
        interpolation_scale=2 if sigma else None,
    )


def text_encoder(layers: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=layers,
            num_heads=64,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        act_fn="silu",
        latent_channels=4,
        norm_num_groups=32,
        sample_size=512,
        scaling_factor=0.18215,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--text-layers", type=int, default=24)
    parser.add_argument("--sigma", action="store_true", help="PixArt-Sigma: no size conditions, scaled positions")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    out = arguments.directory
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(arguments.device):
        transformer(arguments.sigma).save_pretrained(out / "transformer")
        vae().save_pretrained(out / "vae")
        text_encoder(arguments.text_layers).save_pretrained(out / "text_encoder")
    DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").save_pretrained(
        out / "scheduler"
    )
    shutil.copytree(TOKENIZER, out / "tokenizer", dirs_exist_ok=True)
    kind = "PixArtSigmaPipeline" if arguments.sigma else "PixArtAlphaPipeline"
    index = {
        "_class_name": kind,
        "_diffusers_version": "0.35.2",
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    main()
