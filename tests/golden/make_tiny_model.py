"""Small PixArt checkpoints with random weights, one for each form that a diffusers directory takes.

    python3 tests/golden/make_tiny_model.py --pipelines OUT     whole pipelines, OUT/<name> for each of VARIANTS

Tokenizer and VAE are those of the bundled model; transformer and text encoder are random. Deterministic. The noise
schedule ends where a network that predicts no noise still gives latents that the VAE can show."""

import argparse
import dataclasses
import json
import pathlib
import shutil

import diffusers
import torch
import transformers

BUNDLED = pathlib.Path(__file__).parents[2] / "models" / "shapes-256"
TEXT_WIDTH = 20


@dataclasses.dataclass(frozen=True)
class Variant:
    pipeline: str = "PixArtAlphaPipeline"
    max_text_tokens: int = 120
    blocks: int = 2
    sample_size: int = 16
    interpolation_scale: float | None = None
    use_additional_conditions: bool | None = None
    dtype: torch.dtype = torch.float32
    shard_bytes: int | None = None
    old_class: bool = False


VARIANTS = {
    "alpha": Variant(),
    "sigma": Variant(
        pipeline="PixArtSigmaPipeline",
        max_text_tokens=300,
        sample_size=32,
        interpolation_scale=0.5,
        use_additional_conditions=False,
    ),
    "conditions": Variant(sample_size=128),
    "old_class": Variant(old_class=True),
    "odd_blocks": Variant(blocks=5),
    "fp16_stored": Variant(dtype=torch.float16),
    "sharded": Variant(blocks=3, shard_bytes=100_000),
}
OLD_FIELDS = {
    "_class_name": "Transformer2DModel",
    "double_self_attention": False,
    "norm_num_groups": 32,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}


def transformer(name: str) -> diffusers.PixArtTransformer2DModel:
    variant = VARIANTS[name]
    torch.manual_seed(list(VARIANTS).index(name))
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=variant.blocks,
        cross_attention_dim=24,
        caption_channels=TEXT_WIDTH,
        sample_size=variant.sample_size,
        interpolation_scale=variant.interpolation_scale,
        use_additional_conditions=variant.use_additional_conditions,
    ).eval()


def save_transformer(name: str, out: pathlib.Path, dtype: torch.dtype | None = None) -> None:
    variant = VARIANTS[name]
    model = transformer(name).to(dtype or variant.dtype)
    if variant.shard_bytes:
        model.save_pretrained(out, max_shard_size=variant.shard_bytes)
    else:
        model.save_pretrained(out)
    if variant.old_class:
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(config | OLD_FIELDS, indent=2) + "\n")
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)


def save_text_encoder(name: str, out: pathlib.Path) -> None:
    torch.manual_seed(100 + list(VARIANTS).index(name))
    config = transformers.T5Config(
        vocab_size=256,
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=40,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    transformers.T5EncoderModel(config).to(VARIANTS[name].dtype).save_pretrained(out)


def save_scheduler(out: pathlib.Path) -> None:
    out.mkdir()
    config = json.loads((BUNDLED / "scheduler" / "scheduler_config.json").read_text())
    (out / "scheduler_config.json").write_text(json.dumps(config | {"beta_end": 0.004}, indent=2) + "\n")


def save_tokenizer(variant: Variant, out: pathlib.Path) -> None:
    shutil.copytree(BUNDLED / "tokenizer", out)
    file = out / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"model_max_length": variant.max_text_tokens}
    file.write_text(json.dumps(config, indent=2) + "\n")


def save_pipeline(name: str, out: pathlib.Path) -> None:
    variant = VARIANTS[name]
    out.mkdir(parents=True, exist_ok=True)
    save_transformer(name, out / "transformer")
    save_text_encoder(name, out / "text_encoder")
    save_scheduler(out / "scheduler")
    save_tokenizer(variant, out / "tokenizer")
    shutil.copytree(BUNDLED / "vae", out / "vae")
    index = json.loads((BUNDLED / "model_index.json").read_text())
    index["_class_name"] = variant.pipeline
    if variant.old_class:
        index["transformer"] = ["diffusers", "Transformer2DModel"]
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=pathlib.Path, required=True, metavar="OUT")
    out = parser.parse_args().pipelines
    for name in VARIANTS:
        save_pipeline(name, out / name)


if __name__ == "__main__":
    main()
