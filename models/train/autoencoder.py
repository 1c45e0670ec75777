"""Phases "vae" and "decoder": the autoencoder as a whole, then its decoder on fixed latents."""

import math

import torch
import torch.nn.functional as F

from .clock import log
from .networks import make_vae

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 1e-4
LOG_EVERY = 500
HALVED_EVERY = 4  # steps


class Halves:
    """The two halves of a VAE, compiled for training, and their plain forms for everything else."""

    def __init__(self, studio, vae):
        self.vae = vae
        self.encode_for_training = studio.compiled(self.moments)
        self.decode_for_training = studio.compiled(self.decode)

    def moments(self, image):
        """Mean and logarithm of the variance of the latents, [B, 4, 32, 32] each."""
        mean, log_variance = self.vae.quant_conv(self.vae.encoder(image)).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latents):
        return self.vae.decoder(self.vae.post_quant_conv(latents))


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


def cosine(step, fraction, warm_steps):
    """Rises over the warm steps, then falls to a hundredth."""
    return min(1.0, (step + 1) / warm_steps) * (0.01 + 0.495 * (1 + math.cos(math.pi * fraction)))


def set_rate(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


def differences(error):
    """Mean size of the error's horizontal and vertical differences: large where edges are soft."""
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down


def reconstruction_loss(error, recipe):
    return (
        error.abs().mean()
        + recipe.gradient * differences(error)
        + recipe.squared * error.pow(2).mean()
    )


def _update(optimizer, parameters, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _report(phase, step, error, timetable):
    if (step + 1) % LOG_EVERY == 0:
        psnr = -10 * math.log10(error.detach().pow(2).mean().item() / 4)
        log(f"{phase} {step + 1}: {psnr:.2f} dB, {timetable.seconds:.0f} s")


@torch.no_grad()
def measure(studio, vae):
    """(mean over held-out scenes of the reconstruction's PSNR in dB, deviation of the latents)."""
    halves, scenes = Halves(studio, vae), studio.pool("judged")
    psnr, deviations = [], []
    for rows in studio.batches(scenes, studio.recipe.vae.batch):
        image = channels_last(studio.renderer(scenes, rows))
        with studio.autocast():
            mean, _ = halves.moments(image)
            restored = halves.decode(mean).float().clamp(-1, 1)
        psnr.append(-10 * torch.log10((restored - image).pow(2).mean((1, 2, 3)) / 4))
        deviations.append(mean.float().pow(2).mean((1, 2, 3)))
    return torch.cat(psnr).mean().item(), torch.cat(deviations).mean().sqrt().item()


def _save(studio, vae, phase, timetable):
    psnr, deviation = measure(studio, vae)
    if phase == "vae":
        vae.register_to_config(scaling_factor=round(1 / deviation, 5))
    studio.directory.save("vae", vae, scaling_factor=vae.config.scaling_factor)
    log(f"{phase}: {timetable.done} steps in {timetable.seconds:.0f} s, {psnr:.2f} dB, saved")
    return psnr


def _halved_loss(halves, latents, image, autocast):
    """Halved latents are to decode to the halved picture, which keeps the latents smooth."""
    with autocast:
        restored = halves.decode(channels_last(F.avg_pool2d(latents, 2)))
    error = restored.float() - F.avg_pool2d(image, 2)
    return error.abs().mean() + error.pow(2).mean()


def train_vae(studio, timetable):
    recipe, scenes = studio.recipe.vae, studio.pool("vae")
    vae = make_vae(studio.recipe.networks)
    if studio.directory.has("vae"):
        studio.directory.load("vae", vae)
    vae = vae.to(studio.device, memory_format=torch.channels_last)
    halves, parameters = Halves(studio, vae), list(vae.parameters())
    optimizer = torch.optim.AdamW(
        parameters, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=studio.on_gpu
    )
    for step, fraction in timetable.steps():
        set_rate(optimizer, recipe.rate * cosine(step, fraction, recipe.warm_steps))
        image = channels_last(studio.renderer(scenes, studio.random_rows(scenes, recipe.batch)))
        with studio.autocast():
            mean, log_variance = (part.float() for part in halves.encode_for_training(image))
            deviation = (0.5 * log_variance).exp()
            latents = channels_last(mean + deviation * torch.randn_like(mean))
            error = halves.decode_for_training(latents).float() - image
        divergence = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).mean()
        loss = reconstruction_loss(error, recipe) + recipe.kl * divergence
        if step % HALVED_EVERY == 0:
            some = max(1, recipe.batch // 4)
            halved = _halved_loss(halves, latents[:some], image[:some], studio.autocast())
            loss = loss + recipe.halved * halved
        _update(optimizer, parameters, loss)
        _report("vae", step, error, timetable)
        if timetable.checkpoint_due():
            _save(studio, vae, "vae", timetable)
    return dict(psnr_db=_save(studio, vae, "vae", timetable))


def train_decoder(studio, timetable):
    recipe, scenes = studio.recipe.decoder, studio.pool("vae")
    vae = studio.trained_vae()
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    halves, scale = Halves(studio, vae), vae.config.scaling_factor
    optimizer = torch.optim.AdamW(
        parameters, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=studio.on_gpu
    )
    for step, fraction in timetable.steps():
        set_rate(optimizer, recipe.rate * cosine(step, fraction, recipe.warm_steps))
        image = channels_last(studio.renderer(scenes, studio.random_rows(scenes, recipe.batch)))
        with studio.autocast():
            with torch.no_grad():
                mean = halves.moments(image)[0].float()
            spread = torch.rand(len(mean), 1, 1, 1, device=studio.device) * recipe.noise / scale
            latents = channels_last(mean + spread * torch.randn_like(mean))
            latents.requires_grad_()  # as in train_vae, so that the compiled decoder is the same
            error = halves.decode_for_training(latents).float() - image
        _update(optimizer, parameters, reconstruction_loss(error, recipe))
        _report("decoder", step, error, timetable)
        if timetable.checkpoint_due():
            _save(studio, vae, "decoder", timetable)
    return dict(psnr_db=_save(studio, vae, "decoder", timetable))
