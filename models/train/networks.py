"""The networks, as stock diffusers and transformers define them, with this model's sizes."""

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import nn
from transformers import T5Config, T5EncoderModel

from .tokenizer import EOS_ID, VOCABULARY_SIZE
from .vocabulary import IMAGE_PX

LATENT_SIDE = IMAGE_PX // 8
TRAINED_STEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02


def make_vae(sizes, scaling_factor=1.0):
    levels = len(sizes.vae_channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=sizes.vae_channels,
        layers_per_block=1,
        norm_num_groups=sizes.vae_norm_groups,
        latent_channels=sizes.latent_channels,
        sample_size=IMAGE_PX,
        scaling_factor=scaling_factor,
    )


def make_text_encoder(sizes):
    return T5EncoderModel(
        T5Config(
            vocab_size=VOCABULARY_SIZE,
            d_model=sizes.text_width,
            d_kv=sizes.text_head_width,
            num_heads=sizes.text_heads,
            d_ff=sizes.text_hidden,
            num_layers=sizes.text_blocks,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            pad_token_id=0,
            eos_token_id=EOS_ID,
            decoder_start_token_id=0,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def make_transformer(sizes):
    """A PixArt transformer with the initial weights of the PixArt-alpha paper."""
    model = PixArtTransformer2DModel(
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_width,
        in_channels=sizes.latent_channels,
        out_channels=2 * sizes.latent_channels,
        num_layers=sizes.blocks,
        cross_attention_dim=sizes.heads * sizes.head_width,
        sample_size=LATENT_SIDE,
        patch_size=2,
        caption_channels=sizes.text_width,
        use_additional_conditions=False,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    patches = model.pos_embed.proj.weight
    nn.init.xavier_uniform_(patches.view(patches.shape[0], -1))
    nn.init.normal_(model.adaln_single.linear.weight, std=0.02)
    timestep, caption = model.adaln_single.emb.timestep_embedder, model.caption_projection
    for layer in (timestep.linear_1, timestep.linear_2, caption.linear_1, caption.linear_2):
        nn.init.normal_(layer.weight, std=0.05)
    for block in model.transformer_blocks:
        nn.init.normal_(block.attn2.to_out[0].weight, std=0.01)
    nn.init.zeros_(model.proj_out.weight)
    return model


def make_scheduler():
    return DPMSolverMultistepScheduler(
        num_train_timesteps=TRAINED_STEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="linear",
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="epsilon",
    )
