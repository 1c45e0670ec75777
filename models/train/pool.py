"""Many scenes as arrays: what the renderer draws, the checker is asked, and the text encoder reads.

Scenes are made by processes that import no torch, so that a pool can be started before torch is
loaded and be ready when it is.
"""

import itertools
import multiprocessing
import random
from typing import NamedTuple

import numpy as np

from . import tokenizer
from .scenes import THING_COUNT_WEIGHTS, draw_scene
from .vocabulary import (
    BACKGROUNDS,
    CELL_CENTRES_PX,
    CENTRE_JITTER_PX,
    COLOURS,
    IMAGE_PX,
    MAX_THINGS,
    SIZE_JITTER,
    SIZES_PX,
)

MAX_TOKENS = 56
CHUNK = 4000  # scenes a task
TINT_JITTER = 10  # of 255
BACKGROUND_JITTER = 7

_COLOUR_VALUES = np.array([*COLOURS.values(), (255, 255, 255)], np.float32)  # last: emoji, untinted
_BACKGROUND_VALUES = np.array([*BACKGROUNDS.values()], np.float32)


class Pool(NamedTuple):
    """Arrays (NumPy, or torch on a device), a row for each of N scenes; -1 where no thing is."""

    kind: np.ndarray  # [N, 4] int16
    colour: np.ndarray  # [N, 4] int8, also -1 for emoji
    cell: np.ndarray  # [N, 4] int8
    size: np.ndarray  # [N, 4] int8
    box: np.ndarray  # [N, 4, 3] float32: centre x and y, side of the square, in pixels
    tint: np.ndarray  # [N, 4, 3] float32: RGB that the sprite is multiplied with
    sky: np.ndarray  # [N, 2, 3] float32: RGB of the top and bottom of the background
    background: np.ndarray  # [N, 2] int8
    tokens: np.ndarray  # [N, MAX_TOKENS] int16, padded with 0

    @property
    def scenes(self):
        """How many there are."""
        return self.kind.shape[0]

    def to(self, device):
        import torch

        return Pool(*(torch.from_numpy(array).to(device) for array in self))

    def rows(self, index):
        return Pool(*(array[index] for array in self))


def _joined(pools):
    return Pool(*(np.concatenate(arrays) for arrays in zip(*pools)))


def _boxes(generator, cell, size):
    """Jittered centre and side of each thing, kept 2 px inside the image."""
    jitter = generator.uniform(-1, 1, (*cell.shape, 3))
    side = np.array(SIZES_PX)[size] * (1 + SIZE_JITTER * jitter[..., 2])
    centres = np.array(CELL_CENTRES_PX)
    margin = side / 2 + 2
    box = np.empty((*cell.shape, 3), np.float32)
    for axis, at in enumerate((cell % 3, cell // 3)):
        wanted = centres[at] + CENTRE_JITTER_PX * jitter[..., axis]
        box[..., axis] = np.clip(wanted, margin, IMAGE_PX - margin)
    box[..., 2] = side
    return box


def _skies(generator, background):
    """RGB of top and bottom; a plain background has one value for both."""
    jitter = generator.uniform(-BACKGROUND_JITTER, BACKGROUND_JITTER, (len(background), 2, 3))
    plain = background[:, 0] == background[:, 1]
    jitter[plain, 1] = jitter[plain, 0]
    return (np.clip(_BACKGROUND_VALUES[background] + jitter, 0, 255) / 255).astype(np.float32)


def pack(scenes, generator, encode):
    """Pool of the scenes. generator: of NumPy, for the jitter; encode: caption to token ids."""
    count = len(scenes)
    fields = np.full((count, MAX_THINGS, 4), -1, np.int16)
    tokens = np.zeros((count, MAX_TOKENS), np.int16)
    for row, scene in enumerate(scenes):
        fields[row, : len(scene.things)] = scene.things
        ids = encode(scene.caption)
        if len(ids) > MAX_TOKENS:
            raise ValueError(f"caption: {len(ids)} tokens, limit {MAX_TOKENS}: {scene.caption}")
        tokens[row, : len(ids)] = ids
    kind, colour, cell, size = np.moveaxis(fields, 2, 0)
    background = np.array([scene.background for scene in scenes], np.int8)
    tint = _COLOUR_VALUES[colour].copy()
    tint += generator.uniform(-TINT_JITTER, TINT_JITTER, tint.shape) * (colour >= 0)[..., None]
    return Pool(
        kind=kind.copy(),
        colour=colour.astype(np.int8),
        cell=cell.astype(np.int8),
        size=size.astype(np.int8),
        box=_boxes(generator, cell, size),
        tint=(np.clip(tint, 0, 255) / 255).astype(np.float32),
        sky=_skies(generator, background),
        background=background,
        tokens=tokens,
    )


class Order(NamedTuple):
    """What a pool is to hold; equal orders give equal pools on every machine."""

    count: int
    seed: int
    combinations: str  # as for draw_scene
    count_weights: tuple[float, ...] = THING_COUNT_WEIGHTS


def _make_chunk(order, number):
    source = random.Random(f"{order.seed}/{number}")
    count = min(CHUNK, order.count - number * CHUNK)
    scenes = [
        draw_scene(source, order.combinations, count_weights=order.count_weights)
        for _ in range(count)
    ]
    generator = np.random.default_rng([order.seed, number])
    return pack(scenes, generator, tokenizer.encode)


def make(order):
    """The pool, made in this process."""
    return _joined([_make_chunk(order, number) for number in range(-(-order.count // CHUNK))])


DENSE = (0.1, 0.2, 0.3, 0.4)  # more things an image than captions get: more to learn from each


def orders_for(recipe, phases, seed):
    """Orders by name of the pools that the phases take; the seed is for the scenes of diffusion."""
    orders = {"judged": Order(recipe.judged_scenes, 303, "held-out")}
    if {"vae", "decoder"} & set(phases):
        orders["vae"] = Order(recipe.vae.scenes, 101, "seen", DENSE)
    if "checker" in phases:
        orders["checker"] = Order(recipe.checker.scenes, 202, "any")
    if "diffusion" in phases:
        orders["diffusion"] = Order(recipe.diffusion.scenes, 1000 + seed, "seen")
    return orders


class PoolMaker:
    """Makes the pools of some orders in the background, in forked processes.

    To be created before CUDA is used; a context manager that ends the processes.
    """

    def __init__(self, orders, processes):
        """orders: by name, made in that order."""
        self._workers = multiprocessing.get_context("fork").Pool(processes)
        self._started = {}
        for name, order in orders.items():
            tasks = zip(itertools.repeat(order), range(-(-order.count // CHUNK)))
            self._started[name] = self._workers.starmap_async(_make_chunk, tasks, chunksize=1)

    def take(self, name, timeout_s=120):
        """The pool of that name, waiting for it. Each can be taken once."""
        return _joined(self._started.pop(name).get(timeout_s))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._workers.terminate()
        self._workers.join()
