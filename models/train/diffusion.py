"""Phase "diffusion": text encoder and transformer together, on the latents of the finished VAE."""

import copy

import torch
from torch import nn

from .autoencoder import Halves, channels_last, set_rate
from .clock import log
from .muon import Muon
from .networks import BETA_END, BETA_START, TRAINED_STEPS, make_text_encoder, make_transformer
from .tokenizer import EOS_ID

BETAS = (0.9, 0.99)
LOG_EVERY = 500
NETWORKS = ("text_encoder", "transformer")


class Painter(nn.Module):
    """The two networks as one: from noisy latents, step and tokens to the noise."""

    def __init__(self, sizes):
        super().__init__()
        self.text_encoder = make_text_encoder(sizes)
        self.transformer = make_transformer(sizes)
        self.latent_channels = sizes.latent_channels

    def forward(self, latents, step, tokens):
        mask = (tokens != 0).to(latents.dtype)
        text = self.text_encoder(input_ids=tokens.long(), attention_mask=mask)[0]
        out = self.transformer(
            latents,
            encoder_hidden_states=text.to(latents.dtype),
            encoder_attention_mask=mask,
            timestep=step,
            return_dict=False,
        )[0]
        return out[:, : self.latent_channels]  # the other half would be the variance, not used


class NoiseLevels:
    def __init__(self, device):
        betas = torch.linspace(BETA_START, BETA_END, TRAINED_STEPS, dtype=torch.float64)
        self._kept = torch.cumprod(1 - betas, 0).float().to(device)
        ratio = self._kept / (1 - self._kept)
        # v-prediction's weights of an error in the noise, capped at both ends.
        self.weight = ((ratio + 1).clamp(max=6) / ratio).clamp(max=20)

    def noisy(self, latents, noise, step):
        kept = self._kept[step].view(-1, 1, 1, 1)
        return kept.sqrt() * latents + (1 - kept).sqrt() * noise


class Optimizers:
    """Muon on the matrices of the blocks, AdamW on everything else."""

    def __init__(self, painter, recipe, fused):
        matrices, tables, vectors = [], [], []
        for name, parameter in painter.named_parameters():
            in_block = ".transformer_blocks." in name or ".block." in name
            if (
                in_block
                and parameter.ndim == 2
                and not name.endswith(("scale_shift_table", "relative_attention_bias.weight"))
            ):
                matrices.append(parameter)
            else:
                (tables if parameter.ndim > 1 else vectors).append(parameter)
        self._muon = Muon(matrices, weight_decay=recipe.weight_decay)
        self._adamw = torch.optim.AdamW(
            [
                dict(params=tables, weight_decay=recipe.weight_decay),
                dict(params=vectors, weight_decay=0.0),
            ],
            betas=BETAS,
            fused=fused,
        )

    def step(self, rate):
        set_rate(self._adamw, rate)
        self._adamw.step()
        self._muon.step(rate)


class Learner:
    """fp32 weights that are stepped, their running average that is kept, and a working copy.

    The working copy, bf16 on a GPU, computes the gradients.
    """

    def __init__(self, painter, recipe, studio):
        self.weights = painter
        self.average = copy.deepcopy(painter).requires_grad_(False)
        self.working = copy.deepcopy(painter).to(torch.bfloat16 if studio.on_gpu else torch.float32)
        if studio.on_gpu:
            for block in self.working.transformer.transformer_blocks:
                block.compile(dynamic=False)
        self._recipe = recipe
        self._optimizers = Optimizers(painter, recipe, studio.on_gpu)
        self._kept, self._used = list(painter.parameters()), list(self.working.parameters())
        for parameter in self._kept:
            parameter.grad = torch.zeros_like(parameter)
        self._gradients = [parameter.grad for parameter in self._kept]

    def step(self, loss, rate, number):
        loss.backward()
        torch._foreach_copy_(self._gradients, [parameter.grad for parameter in self._used])
        for parameter in self._used:
            parameter.grad = None
        nn.utils.clip_grad_norm_(self._kept, 1.0, foreach=True)
        self._optimizers.step(rate)
        with torch.no_grad():
            torch._foreach_copy_(self._used, self._kept)
            share = min(self._recipe.average, (number + 1) / (number + 10))
            torch._foreach_lerp_(list(self.average.parameters()), self._kept, 1 - share)


@torch.no_grad()
def _latents(studio, scenes):
    """Scaled latents of all scenes, [N, 4, 32, 32] in bf16 on a GPU."""
    vae = studio.trained_vae()
    halves, encoded = Halves(studio, vae), []
    for rows in studio.batches(scenes, studio.recipe.encoding_batch):
        image = channels_last(studio.renderer(scenes, rows))
        with studio.autocast():
            mean, _ = halves.moments(image)
        scaled = mean.float() * vae.config.scaling_factor
        encoded.append(scaled.to(torch.bfloat16 if studio.on_gpu else torch.float32))
    return torch.cat(encoded)


def _epochs(count, batch, device):
    """Rows in batches, each row once an epoch, for ever."""
    while True:
        order = torch.randperm(count, device=device)
        yield from (rows for rows in order.split(batch) if len(rows) == batch)


def _steps_spread(batch, device):
    """One diffusion step from each of `batch` equal ranges, in random order."""
    places = torch.randperm(batch, device=device) + torch.rand(batch, device=device)
    return (places * (TRAINED_STEPS / batch)).long().clamp(max=TRAINED_STEPS - 1)


def _without_some(tokens, share):
    """A share of the captions replaced by the empty one, for guidance."""
    empty = torch.zeros_like(tokens[:1])
    empty[:, 0] = EOS_ID
    dropped = torch.rand(len(tokens), 1, device=tokens.device) < share
    return torch.where(dropped, empty, tokens)


def _rate(recipe, step, fraction):
    """Rises over the warm steps, stays, and falls to nothing in the last part of the run."""
    warm = min(1.0, (step + 1) / recipe.warm_steps)
    decay = min(1.0, (1 - fraction) / recipe.decay) if recipe.decay else 1.0
    return recipe.rate * warm * decay


@torch.no_grad()
def _held_out_loss(studio, painter, levels):
    """Weighted loss on held-out scenes, always with the same noise and steps."""
    scenes = studio.pool("judged")
    latents = _latents(studio, scenes)
    dtype, latents = latents.dtype, latents.float()
    painter = copy.deepcopy(painter).to(dtype)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(latents.shape, generator=generator).to(studio.device)
    step = (torch.arange(len(latents), device=studio.device) * 997) % TRAINED_STEPS
    losses = []
    for rows in studio.batches(scenes, studio.recipe.diffusion.batch):
        noisy = levels.noisy(latents[rows], noise[rows], step[rows])
        predicted = painter(noisy.to(dtype), step[rows], scenes.tokens[rows]).float()
        error = (predicted - noise[rows]).pow(2).mean((1, 2, 3))
        losses.append(error * levels.weight[step[rows]])
    return torch.cat(losses).mean().item()


def _save(studio, painter):
    for network in NETWORKS:
        studio.directory.save(network, getattr(painter, network))


def _make_painter(studio):
    painter = Painter(studio.recipe.networks)
    for network in NETWORKS:
        if studio.directory.has(network):
            studio.directory.load(network, getattr(painter, network))
    return painter.to(studio.device)


def train_diffusion(studio, timetable):
    recipe, scenes = studio.recipe.diffusion, studio.pool("diffusion")
    latents = _latents(studio, scenes)
    log(f"diffusion: {len(latents)} scenes encoded, deviation {latents.float().std().item():.3f}")
    learner = Learner(_make_painter(studio), recipe, studio)
    levels = NoiseLevels(studio.device)
    epochs = _epochs(len(latents), recipe.batch, studio.device)
    total = torch.zeros((), device=studio.device)
    for number, fraction in timetable.steps():
        rows = next(epochs)
        clean = latents[rows].float()
        noise, step = torch.randn_like(clean), _steps_spread(recipe.batch, studio.device)
        noisy = levels.noisy(clean, noise, step).to(latents.dtype)
        tokens = _without_some(scenes.tokens[rows], recipe.dropped_captions)
        error = learner.working(noisy, step, tokens).float() - noise
        loss = (error.pow(2).mean((1, 2, 3)) * levels.weight[step]).mean()
        learner.step(loss, _rate(recipe, number, fraction), number)
        total += loss.detach()
        if (number + 1) % LOG_EVERY == 0:
            mean = total.item() / LOG_EVERY
            total.zero_()
            log(f"diffusion {number + 1}: loss {mean:.5f}, {timetable.seconds:.0f} s")
            if mean != mean:
                raise FloatingPointError("diffusion: the loss is not a number")
        if timetable.checkpoint_due():
            _save(studio, learner.average)
    _save(studio, learner.average)
    loss = _held_out_loss(studio, learner.average, levels)
    log(f"diffusion: {timetable.done} steps in {timetable.seconds:.0f} s, held-out loss {loss:.5f}")
    return dict(held_out_loss=loss)
