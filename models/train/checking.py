"""Phase "checker": trains the network that judges images, on drawn and on restored scenes."""

import torch
import torch.nn.functional as F

from .autoencoder import Halves, channels_last, set_rate
from .checker import Checker, judge, right_answers, shrink
from .clock import log

BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.02
LOSS_WEIGHTS = dict(thing=1.0, colour=1.0, size=0.5, background=0.3)
LOG_EVERY = 200


def _restored(studio, halves, image):
    with torch.no_grad(), studio.autocast():
        mean, _ = halves.moments(channels_last(image))
        return halves.decode(mean).float().clamp(-1, 1)


def _pictures(studio, halves, scenes, through_vae):
    """[N, 3, 128, 128] uint8: the first `through_vae` scenes as the VAE restores them."""
    pictures = []
    for rows in studio.batches(scenes, studio.recipe.vae.batch):
        image = studio.renderer(scenes, rows)
        if rows[0] < through_vae:
            image = _restored(studio, halves, image)
        pictures.append(((shrink(image) + 1) * 127.5).round().clamp(0, 255).byte())
    return torch.cat(pictures)


def _disturbed(picture):
    """With noise, another contrast and tint, and moved by up to 2 px."""
    image = picture.float() / 127.5 - 1
    each = torch.rand(4, len(image), 1, 1, 1, device=image.device)
    image = image + 0.08 * each[0] * torch.randn_like(image)
    image = image * (0.95 + 0.1 * each[1])
    image = image + 0.06 * (torch.rand(len(image), 3, 1, 1, device=image.device) - 0.5)
    shift = torch.randint(-2, 3, (2,)).tolist()
    return channels_last(torch.roll(image, shift, (2, 3)))


def _loss(logits, right):
    return sum(
        LOSS_WEIGHTS[name]
        * F.cross_entropy(
            getattr(logits, name).float().flatten(0, 1), getattr(right, name).flatten()
        )
        for name in right._fields
    )


def share_shown(studio, checker, halves=None):
    """Share of held-out scenes that the checker reads right, drawn or restored by the VAE."""
    scenes, shown = studio.pool("judged"), []
    checker.eval()
    for rows in studio.batches(scenes, studio.recipe.vae.batch):
        image = studio.renderer(scenes, rows)
        if halves:
            image = _restored(studio, halves, image)
        shown.append(judge(checker, image, scenes.rows(rows)).exact)
    return torch.cat(shown).float().mean().item()


def train_checker(studio, timetable):
    recipe, scenes = studio.recipe.checker, studio.pool("checker")
    halves = Halves(studio, studio.trained_vae())
    pictures = _pictures(studio, halves, scenes, int(recipe.through_vae * scenes.scenes))
    log(f"checker: {len(pictures)} pictures drawn")
    right = right_answers(scenes)
    checker = Checker(studio.recipe.networks.checker_width)
    if studio.directory.has("checker"):
        studio.directory.load("checker", checker)
    checker = checker.to(studio.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        checker.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY, fused=studio.on_gpu
    )
    for step, fraction in timetable.steps():
        set_rate(optimizer, recipe.rate * min(1, (step + 1) / recipe.warm_steps) * (1 - fraction))
        rows = studio.random_rows(scenes, recipe.batch)
        with studio.autocast():
            logits = checker(_disturbed(pictures[rows]))
        loss = _loss(logits, type(right)(*(answer[rows] for answer in right)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % LOG_EVERY == 0:
            log(f"checker {step + 1}: loss {loss.item():.4f}, {timetable.seconds:.0f} s")
    figures = dict(
        drawn=share_shown(studio, checker), restored=share_shown(studio, checker, halves)
    )
    studio.directory.save("checker", checker)
    log(f"checker: {timetable.done} steps, reads {figures}, saved")
    return figures
