"""Sizes of the networks and settings of their training: the real ones, and toy ones for tests."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Networks:
    vae_channels: tuple[int, ...] = (24, 48, 72, 96)
    vae_norm_groups: int = 8
    latent_channels: int = 4
    text_width: int = 128
    text_heads: int = 4
    text_head_width: int = 32
    text_hidden: int = 256
    text_blocks: int = 4
    heads: int = 4
    head_width: int = 56
    blocks: int = 8
    checker_width: int = 32


@dataclasses.dataclass(frozen=True)
class Vae:
    """Loss: L1 + gradient * L1 of differences + squared * MSE + kl * KL + halved * halved's."""

    scenes: int = 100_000
    batch: int = 32
    rate: float = 1.2e-3
    warm_steps: int = 300
    gradient: float = 0.5
    squared: float = 2.0
    kl: float = 5e-4
    halved: float = 0.5


@dataclasses.dataclass(frozen=True)
class Decoder:
    """The decoder alone, on the latents of the finished encoder with some noise."""

    batch: int = 32
    rate: float = 8e-4
    warm_steps: int = 200
    gradient: float = 1.0
    squared: float = 2.0
    noise: float = 0.06  # largest standard deviation, in units of the scaled latents


@dataclasses.dataclass(frozen=True)
class Checker:
    scenes: int = 72_000
    through_vae: float = (
        1 / 3
    )  # share of the scenes that the checker sees as the VAE gives them back
    batch: int = 512
    rate: float = 2e-3
    warm_steps: int = 100


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Text encoder and transformer together, weights as for v-prediction, capped at both ends."""

    scenes: int = 220_160  # whole encoding batches
    batch: int = 512
    rate: float = 1e-3
    warm_steps: int = 300
    decay: float = 0.2  # last part of a run, in which the rate falls to nothing
    average: float = 0.999
    dropped_captions: float = 0.1
    weight_decay: float = 0.02


@dataclasses.dataclass(frozen=True)
class Recipe:
    networks: Networks = Networks()
    vae: Vae = Vae()
    decoder: Decoder = Decoder()
    checker: Checker = Checker()
    diffusion: Diffusion = Diffusion()
    judged_scenes: int = 2048  # held-out scenes that end each phase
    encoding_batch: int = 256


FULL = Recipe()

TOY = Recipe(
    networks=Networks(
        vae_channels=(8, 8, 8, 8),
        vae_norm_groups=4,
        text_width=32,
        text_heads=2,
        text_head_width=16,
        text_hidden=32,
        text_blocks=1,
        heads=2,
        head_width=16,
        blocks=1,
        checker_width=8,
    ),
    vae=Vae(scenes=16, batch=4),
    decoder=Decoder(batch=4),
    checker=Checker(scenes=16, batch=4),
    diffusion=Diffusion(scenes=16, batch=4, warm_steps=2),
    judged_scenes=8,
    encoding_batch=8,
)

RECIPES = {"full": FULL, "toy": TOY}
