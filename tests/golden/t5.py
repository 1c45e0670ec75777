"""Small T5 encoders with random weights and what transformers makes of them, for tests/engine/text/text_encoder_test.cc.

Writes t5/<name>/{config.json, model.safetensors}, and t5/outputs.safetensors with <name>.{ids,mask} and last_hidden_state as
<name>.{float32,bfloat16,float16}; "bundled" is the encoder of models/shapes-256. Also t5/buckets.json: buckets of relative
positions. Made with transformers 4.57.1 and torch 2.11.0 on a CPU; run it again after changing it:
    python3 tests/golden/t5.py
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers.models.t5.modeling_t5 import T5Attention

OUT = pathlib.Path(__file__).parent / "t5"
BUNDLED = pathlib.Path(__file__).parents[2] / "models/shapes-256/text_encoder"

# (changes to the config, stored dtype, under the tied name, lengths of the prompts, padded to)
CASES = {
    "odd": ({"d_model": 16, "d_kv": 5, "num_heads": 5, "d_ff": 28, "num_layers": 3, "vocab_size": 40,
             "feed_forward_proj": "gated-gelu"}, torch.float32, False, (11, 1, 19), 19),
    "relu": ({"d_model": 16, "d_kv": 8, "num_heads": 3, "d_ff": 24, "num_layers": 1, "vocab_size": 40,
              "relative_attention_num_buckets": 10, "relative_attention_max_distance": 20,
              "feed_forward_proj": "relu"}, torch.float16, True, (70, 33), 75),
    "silu": ({"d_model": 12, "d_kv": 16, "num_heads": 1, "d_ff": 7, "num_layers": 2, "vocab_size": 30,
              "layer_norm_epsilon": 1e-3, "feed_forward_proj": "gated-silu"}, torch.bfloat16, False, (5,), 8),
    "overflow": ({"d_model": 16, "d_kv": 4, "num_heads": 2, "d_ff": 16, "num_layers": 2, "vocab_size": 30,
                  "feed_forward_proj": "gated-gelu"}, torch.float32, False, (6, 4), 6),
}  # fmt: skip


def randomize(model, generator, overflow):
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-1]
        values = torch.randn(parameter.shape, generator=generator)
        if "layer_norm" in name:
            values = 1 + 0.2 * values
        elif "relative_attention_bias" in name or "shared" in name:
            values = (values * 2e4).clamp(-5e4, 5e4) if overflow and "shared" in name else values
        else:
            values = values * fan_in**-0.5
        if overflow and name.endswith("block.0.layer.0.SelfAttention.o.weight"):
            values = values * 3e4
        parameter.data.copy_(values)


def save(name, changes, dtype, tied_name, seed):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    config = transformers.T5Config(**changes, is_encoder_decoder=False, use_cache=False)
    model = transformers.T5EncoderModel(config).eval()
    randomize(model, torch.Generator().manual_seed(seed), name == "overflow")
    weights = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
    tied = weights.pop("encoder.embed_tokens.weight")
    if tied_name:
        weights.pop("shared.weight")
        weights["encoder.embed_tokens.weight"] = tied
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_diff_dict() | {"model_type": "t5"}, indent=1) + "\n")
    return folder


def prompts(vocabulary, lengths, padded, generator):
    ids = torch.randint(2, vocabulary, (len(lengths), padded), generator=generator)
    place = torch.arange(padded)
    mask = (place < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask == 1, ids, 0), mask


@torch.no_grad()
def outputs(folder, ids, mask):
    out = {"ids": ids, "mask": mask}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = transformers.T5EncoderModel.from_pretrained(folder, dtype=dtype).eval()
        hidden = model(ids, attention_mask=mask)[0]
        assert hidden.dtype == dtype and hidden.isfinite().all(), (folder, dtype)
        out[str(dtype).removeprefix("torch.")] = hidden
    return out


def buckets():
    cases = []
    for num_buckets, max_distance in ((32, 128), (10, 20), (7, 100), (4, 2), (64, 1000), (33, 129)):
        position = torch.arange(-max_distance - 5, max_distance + 6)
        found = T5Attention._relative_position_bucket(position, True, num_buckets, max_distance)
        cases.append({"num_buckets": num_buckets, "max_distance": max_distance, "buckets": found[5:-5].tolist()})
        assert (found[:5] == found[5]).all() and (found[-5:] == found[-6]).all()
    return cases


def main():
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    tensors = {}
    for seed, (name, (changes, dtype, tied_name, lengths, padded)) in enumerate(CASES.items()):
        folder = save(name, changes, dtype, tied_name, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        found = outputs(folder, *prompts(changes["vocab_size"], lengths, padded, generator))
        if name == "overflow":
            assert (found["float16"].float() - found["float32"]).abs().max() > 0.1, "nothing overflowed"
        tensors |= {f"{name}.{key}": value for key, value in found.items()}
    ids, mask = prompts(242, (9, 1), 12, torch.Generator().manual_seed(7))
    tensors |= {f"bundled.{key}": value for key, value in outputs(BUNDLED, ids, mask).items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, OUT / "outputs.safetensors")
    (OUT / "buckets.json").write_text(json.dumps(buckets(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
