"""AutoencoderKL's decoder by diffusers, for tests/engine/vae/*_test.cc.

Writes vae/<variant>/ (tiny VAEs with random weights, stored as float16, computed in float32), vae/old_attention/ (the
weights of `tiny` under the names, and in the shapes, of old checkpoints) and vae/expected.safetensors (latents, the map
after each stage, pixels). Made with diffusers 0.35.2 and torch 2.11.0 on a CPU; run it again after changing it:
    python3 tests/golden/vae.py
"""

import pathlib
import shutil

import diffusers
import torch
from safetensors.torch import load_file, save_file

OUT = pathlib.Path(__file__).parent / "vae"
BUNDLED = pathlib.Path(__file__).parents[2] / "models" / "shapes-256" / "vae"
WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANTS = {
    "tiny": dict(block_out_channels=[8, 16, 16], layers_per_block=1, norm_num_groups=4),
    "narrowing": dict(block_out_channels=[4, 4, 48], layers_per_block=1, norm_num_groups=4, scaling_factor=0.13025),
    "widening": dict(block_out_channels=[24, 8], layers_per_block=2, norm_num_groups=8, force_upcast=False),
    "flux": dict(
        block_out_channels=[8, 8, 16, 16],
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ),
    "no_attention": dict(
        block_out_channels=[6, 12], layers_per_block=1, norm_num_groups=3, mid_block_add_attention=False
    ),
}
SIZES = {"tiny": (6, 6), "narrowing": (5, 7), "widening": (9, 4), "flux": (4, 6), "no_attention": (3, 8), "bundled": (8, 6)}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def save(name: str, options: dict) -> None:
    torch.manual_seed(list(VARIANTS).index(name))
    blocks = len(options["block_out_channels"])
    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        sample_size=32,
        **options,
    )
    for parameter_name, parameter in vae.named_parameters():
        if "norm" in parameter_name:
            torch.nn.init.normal_(parameter, mean=1.0 if parameter_name.endswith("weight") else 0.0, std=0.5)
    vae.half().save_pretrained(OUT / name)
    (OUT / name / WEIGHTS).chmod(0o644)


def save_old_attention() -> None:
    shutil.copytree(OUT / "tiny", OUT / "old_attention")
    tensors = {}
    for name, tensor in load_file(OUT / "tiny" / WEIGHTS).items():
        if "mid_block.attentions.0." in name:
            for new, old in OLD_NAMES.items():
                name = name.replace(f".{new}.", f".{old}.")
            if name.endswith("weight") and tensor.dim() == 2:
                tensor = tensor[:, :, None, None]
        tensors[name] = tensor.contiguous()
    save_file(tensors, OUT / "old_attention" / WEIGHTS)


@torch.inference_mode()
def decode(folder: pathlib.Path, rows: int, columns: int) -> dict[str, torch.Tensor]:
    vae = diffusers.AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    torch.manual_seed(7)
    latents = torch.randn(1, vae.config.latent_channels, rows, columns)
    found = {"latents": latents}

    def keep(name: str):
        return lambda _, given, result: found.update({name: result.clone()})

    decoder = vae.decoder
    decoder.conv_in.register_forward_hook(keep("conv_in"))
    decoder.mid_block.resnets[0].register_forward_hook(keep("middle_first"))
    if decoder.mid_block.attentions[0] is not None:
        decoder.mid_block.attentions[0].register_forward_hook(keep("attention"))
    decoder.mid_block.register_forward_hook(keep("middle"))
    for i, block in enumerate(decoder.up_blocks):
        block.resnets[0].register_forward_hook(keep(f"up.{i}.first"))
        block.resnets[-1].register_forward_hook(keep(f"up.{i}.last"))
        block.register_forward_hook(keep(f"up.{i}"))
    found["pixels"] = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
    return found


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    tensors = {}
    for name, options in VARIANTS.items():
        save(name, options)
    save_old_attention()
    for name, (rows, columns) in SIZES.items():
        found = decode(BUNDLED if name == "bundled" else OUT / name, rows, columns)
        if name == "bundled":  # The maps of this one are large.
            found = {key: found[key] for key in ("latents", "middle", "pixels")}
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in found.items()}
    save_file(tensors, OUT / "expected.safetensors")


if __name__ == "__main__":
    main()
