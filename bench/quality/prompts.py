"""Prompts whose images the checker network can judge, those of models/evaluate.py."""

import pathlib

import numpy as np

from models import evaluate

from .errors import InputError


def scenes_of(captions: list[str], where: pathlib.Path | str) -> list:
    """The scene of each caption; the captions must be judged prompts."""
    known = {
        scene.caption: scene
        for scene in evaluate.judged_scenes(max(evaluate.ALL_PROMPTS, len(captions)))
    }
    for number, caption in enumerate(captions, 1):
        if caption not in known:
            raise InputError(f"{where}:{number}: is not a prompt that the checker can judge: {caption!r}")
    return [known[caption] for caption in captions]


class Judge:
    """Holds the checker to batches of images in the order of the scenes."""

    def __init__(self, checker, scenes: list, device: str = "cpu"):
        self._checker, self._device = checker, device
        self._pool = evaluate.as_pool(scenes, device)
        self._said = np.array([evaluate.says_background(scene.caption) for scene in scenes])
        self._done = 0
        self._parts: list[dict] = []

    def __call__(self, batch: np.ndarray) -> None:
        import torch

        from models.train.checker import judge

        from .networks import centred

        rows = torch.arange(self._done, self._done + len(batch), device=self._device)
        verdict = judge(self._checker, centred(batch, self._device), self._pool.rows(rows))
        self._done += len(batch)
        self._parts.append({k: v.float().cpu().numpy() for k, v in verdict._asdict().items()})

    def verdicts(self) -> dict[str, np.ndarray]:
        """float32 [N] of 0 and 1 (confidence: 0..1) by the names of a Verdict.

        background is NaN where the caption says none.
        """
        whole = {k: np.concatenate([part[k] for part in self._parts]) for k in self._parts[0]}
        whole["background"] = np.where(self._said, whole["background"], np.nan)
        return whole


def rendered(scenes: list, device: str = "cpu", batch: int = 50):
    """Yields uint8 [n, H, W, 3]: what perfect images of the scenes are."""
    import torch

    from models.train.render import Renderer

    renderer, pool = Renderer(device), evaluate.as_pool(scenes, device)
    for rows in torch.arange(len(scenes), device=device).split(batch):
        image = renderer(pool, rows).clamp(-1, 1)
        pixels = ((image + 1) * 127.5).round().byte()
        yield pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
