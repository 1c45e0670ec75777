"""Draws scenes of a pool, many at once, on the device."""

import torch
import torch.nn.functional as F

from .sprites import SIDE_PX, read_sheet
from .vocabulary import IMAGE_PX, MAX_THINGS, SIZES_PX


def _lowpassed(sprites):
    """[sizes, things, 4, 128, 128]: no more detail than each drawn size can show."""
    versions = []
    for side in SIZES_PX:
        small = F.interpolate(sprites, size=(side, side), mode="bilinear", antialias=True)
        versions.append(F.interpolate(small, size=(SIDE_PX, SIDE_PX), mode="bicubic").clamp(0, 1))
    return torch.stack(versions)


class Renderer:
    def __init__(self, device):
        self._sprites = _lowpassed(torch.from_numpy(read_sheet())).to(device)
        self._pixels = torch.arange(IMAGE_PX, device=device) + 0.5
        self._ramp = torch.linspace(0, 1, IMAGE_PX, device=device).view(1, 1, IMAGE_PX, 1)

    def _grid(self, box):
        """Where in its sprite, in -1..1, each pixel lies: [B, 256, 256, 2]."""
        x, y, side = (part.view(-1, 1, 1) for part in box.unbind(1))
        across = ((self._pixels.view(1, 1, -1) - x) * 2 / side).expand(-1, IMAGE_PX, -1)
        down = ((self._pixels.view(1, -1, 1) - y) * 2 / side).expand(-1, -1, IMAGE_PX)
        return torch.stack([across, down], -1)

    @torch.no_grad()
    def __call__(self, pool, rows):
        """Images [B, 3, 256, 256] float32 in -1..1 of some rows of a pool on the device."""
        sky = pool.sky[rows][..., None, None]
        image = (sky[:, 0] * (1 - self._ramp) + sky[:, 1] * self._ramp).expand(-1, -1, -1, IMAGE_PX)
        image = image.contiguous()
        kind, size = pool.kind[rows].long(), pool.size[rows].long()
        box, tint = pool.box[rows], pool.tint[rows]
        for slot in range(MAX_THINGS):
            drawn = (kind[:, slot] >= 0).nonzero().squeeze(1)
            if not len(drawn):
                break
            sprite = F.grid_sample(
                self._sprites[size[drawn, slot], kind[drawn, slot]],
                self._grid(box[drawn, slot]),
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
            coloured = sprite[:, :3] * tint[drawn, slot, :, None, None]
            image[drawn] = image[drawn] * (1 - sprite[:, 3:]) + coloured
        return image * 2 - 1
