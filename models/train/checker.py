"""The checker: a small convolutional network that says what stands in each of the nine cells.

It judges images against the scenes that their captions describe. It is lenient: it only chooses
among the things there are, so a smeared cat passes if it looks like a cat more than like a dog.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from .vocabulary import BACKGROUNDS, CELLS, COLOURS, MAX_THINGS, SIZES_PX, THINGS

NO_THING, NO_COLOUR, NO_SIZE = len(THINGS), len(COLOURS), len(SIZES_PX)
SEEN_PX = 128


def _convolution(inputs, outputs, stride):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Answers(NamedTuple):
    """What stands in the cells, and the background: classes, or logits with one dim more."""

    thing: torch.Tensor  # [B, 9] of THINGS, or NO_THING
    colour: torch.Tensor  # [B, 9] of COLOURS, or NO_COLOUR for emoji and empty cells
    size: torch.Tensor  # [B, 9] of SIZES_PX, or NO_SIZE
    background: torch.Tensor  # [B, 2] of BACKGROUNDS: top and bottom

    def classes(self):
        return Answers(*(logits.argmax(-1) for logits in self))


class Checker(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        w = width
        plan = [(3, w, 2), (w, w, 1), (w, 2 * w, 2), (2 * w, 2 * w, 1), (2 * w, 2 * w, 1)]
        plan += [(2 * w, 4 * w, 2), (4 * w, 4 * w, 1), (4 * w, 4 * w, 1)]
        self.features = nn.Sequential(*(_convolution(*layer) for layer in plan))
        self.cells = nn.Sequential(
            _convolution(4 * w, 4 * w, 1),
            nn.Dropout2d(0.05),
            nn.Conv2d(4 * w, 8 * w, 5, 5, 0),
            nn.BatchNorm2d(8 * w),
            nn.ReLU(inplace=True),
            nn.Conv2d(8 * w, 8 * w, 3, 1, 1),
            nn.BatchNorm2d(8 * w),
            nn.ReLU(inplace=True),
        )
        self.widths = (NO_THING + 1, NO_COLOUR + 1, NO_SIZE + 1)
        self.answers = nn.Conv2d(8 * w, sum(self.widths), 1)
        self.background = nn.Linear(2 * 4 * w, 2 * len(BACKGROUNDS))

    def forward(self, image):
        """Logits, from images [B, 3, S, S] in -1..1."""
        features = self.features(shrink(image))
        thirds = F.interpolate(features, size=(15, 15), mode="bilinear", align_corners=False)
        logits = self.answers(self.cells(thirds)).flatten(2).transpose(1, 2)
        edges = torch.cat([features[:, :, 0].mean(-1), features[:, :, -1].mean(-1)], 1)
        background = self.background(edges).view(-1, 2, len(BACKGROUNDS))
        return Answers(*logits.split(self.widths, -1), background)


def shrink(image):
    """The image at the size at which the checker looks."""
    return F.interpolate(image, size=(SEEN_PX, SEEN_PX), mode="area")


def load_checker(path, width=32, device="cpu"):
    """The checker of a safetensors file, in fp32, ready to judge."""
    checker = Checker(width)
    checker.load_state_dict(
        {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(path).items()
        }
    )
    return checker.to(device).eval()


def right_answers(pool):
    """The classes of a pool of torch tensors."""
    count, device = pool.scenes, pool.kind.device
    thing = torch.full((count, CELLS), NO_THING, device=device)
    colour = torch.full((count, CELLS), NO_COLOUR, device=device)
    size = torch.full((count, CELLS), NO_SIZE, device=device)
    for slot in range(MAX_THINGS):
        rows = (pool.kind[:, slot] >= 0).nonzero().squeeze(1)
        cells = pool.cell[rows, slot].long()
        thing[rows, cells] = pool.kind[rows, slot].long()
        own = pool.colour[rows, slot].long()
        colour[rows, cells] = torch.where(own < 0, NO_COLOUR, own)
        size[rows, cells] = pool.size[rows, slot].long()
    return Answers(thing, colour, size, pool.background.long())


class Verdict(NamedTuple):
    """For each image, bool [B] unless said."""

    shown: torch.Tensor  # every thing of the caption, with its colour, in its cell
    exact: torch.Tensor  # shown, and the other cells empty
    sized: torch.Tensor  # every thing of the caption has the size in its cell
    background: torch.Tensor  # top and bottom
    confidence: torch.Tensor  # float: the probability given to the right things, mean over them


@torch.no_grad()
def judge(checker, image, pool):
    """Compares images in -1..1 with the scenes of a pool with as many rows."""
    right, logits = right_answers(pool), checker(image)
    seen = logits.classes()
    asked = right.thing != NO_THING
    fits = (seen.thing == right.thing) & (
        (right.colour == NO_COLOUR) | (seen.colour == right.colour)
    )
    shown = (fits | ~asked).all(1)
    probability = logits.thing.float().softmax(-1).gather(-1, right.thing[..., None])[..., 0]
    return Verdict(
        shown=shown,
        exact=shown & ((seen.thing == NO_THING) | asked).all(1),
        sized=((seen.size == right.size) | ~asked).all(1),
        background=(seen.background == right.background).all(1),
        confidence=(probability * asked).sum(1) / asked.sum(1),
    )
