"""Scores of images against the images that they should equal, pair by pair."""

import pathlib
from collections.abc import Iterator

import numpy as np

from . import images
from .errors import InputError

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
EQUAL_DB = 100.0  # The PSNR that equal images count as, which have none.


def psnr(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """dB [N] of uint8 [N, H, W, 3], each pair by itself; 100 for equal images."""
    errors = ((one.astype(np.float32) - other.astype(np.float32)) / 255) ** 2
    mean = errors.reshape(len(one), -1).mean(1, dtype=np.float64)
    return np.where(mean > 0, -10 * np.log10(np.maximum(mean, 1e-30)), EQUAL_DB)


def ssim(one: np.ndarray, other: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Structural similarity [N] of uint8 [N, H, W, 3], sides from 11 px (Wang et al. 2004).

    A Gaussian window of 11 px and sigma 1.5, data range 1, over the places where the window fits;
    mean over them and the colours.
    """
    import torch
    import torch.nn.functional as F

    at = torch.arange(SSIM_WINDOW, device=device) - SSIM_WINDOW // 2
    weights = torch.exp(-(at**2) / (2 * SSIM_SIGMA**2))
    weights = (weights / weights.sum()).repeat(3, 1)

    def blurred(x):
        x = F.conv2d(x, weights[:, None, :, None], groups=3)
        return F.conv2d(x, weights[:, None, None, :], groups=3)

    with torch.inference_mode():
        x, y = (
            torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255
            for batch in (one, other)
        )
        mean_x, mean_y = blurred(x), blurred(y)
        var_x = (blurred(x * x) - mean_x**2).clamp_min(0)
        var_y = (blurred(y * y) - mean_y**2).clamp_min(0)
        both = blurred(x * y) - mean_x * mean_y
        value = ((2 * mean_x * mean_y + SSIM_C1) * (2 * both + SSIM_C2)) / (
            (mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2)
        )
        return value.mean((1, 2, 3)).double().cpu().numpy()


class Lpips:
    """LPIPS (Zhang et al. 2018) over AlexNet, whose weights are torchvision's state dict in a file.

    The linear weights come with torchmetrics. Images go in as -1..1, which is what the linear
    weights were trained on.
    """

    def __init__(self, weights: pathlib.Path, device: str = "cpu"):
        import pickle

        import torch
        from torchmetrics.functional.image import lpips

        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, LookupError, ValueError) as error:
            raise InputError(f"{weights}: can't be read as weights: {error}") from error
        network = lpips._LPIPS(pretrained=True, net="alex", pnet_rand=True)
        convolutions = {
            name.removeprefix("features."): tensor
            for name, tensor in state.items()
            if name.startswith("features.")
        }
        for number in range(1, network.L + 1):
            _load_layers(getattr(network.net, f"slice{number}"), convolutions, weights)
        self._network, self._device = network.to(device).eval(), device

    def __call__(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """[N] of uint8 [N, H, W, 3]."""
        import torch

        from .networks import centred

        with torch.inference_mode():
            value = self._network(centred(one, self._device), centred(other, self._device))
        return value.flatten().double().cpu().numpy()


def _load_layers(layers, state: dict, path: pathlib.Path) -> None:
    """The layers keep AlexNet's numbers as names."""
    for name, parameter in layers.named_parameters():
        if name not in state or state[name].shape != parameter.shape:
            raise InputError(f"{path}: has no features.{name} {list(parameter.shape)} of AlexNet")
        parameter.data.copy_(state[name])


def compare(one, other, device="cpu", lpips=None, batch=32) -> dict[str, np.ndarray]:
    """psnr_db, ssim and (with a Lpips) lpips [N] of two image sources, streamed."""
    images.check_paired(one, other)
    parts: list[dict] = []
    for x, y in _zipped(one, other, batch):
        part = dict(psnr_db=psnr(x, y), ssim=ssim(x, y, device))
        if lpips:
            part["lpips"] = lpips(x, y)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _zipped(one, other, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for x, y in zip(images.batches(one, batch), images.batches(other, batch), strict=True):
        if x.shape != y.shape:
            raise InputError(
                f"{other.path}: images of {y.shape[2]}x{y.shape[1]} px, but {one.path} has"
                f" {x.shape[2]}x{x.shape[1]}: can't be paired"
            )
        yield x, y
