"""Scenes: which things, of which colour and size, in which of nine cells, on which background.

Some combinations never occur in training, so that the judged prompts ask for what was never seen:
one colour of each shape, about a tenth of all (thing, cell) and of all pairs of things.
"""

import hashlib
import itertools
from typing import NamedTuple

from .captions import caption
from .vocabulary import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    MAX_THINGS,
    SHAPES,
    THINGS,
    stands_out,
)


class Thing(NamedTuple):
    kind: int  # into THINGS
    colour: int  # into COLOURS; -1 for emoji, which have their own
    cell: int  # 0..8, from the top left
    size: int  # into SIZES_PX


class Scene(NamedTuple):
    things: tuple[Thing, ...]
    background: tuple[int, int]  # into BACKGROUNDS: top and bottom, the same if it is plain
    layout: str  # how the caption says the places: "place", "relation", "list"
    caption: str


# Layouts that a caption expresses without naming a place: the word and the cells it means.
RELATIONS_OF_TWO = {
    "above": (1, 7), "below": (7, 1), "left": (3, 5), "right": (5, 3), "and": (3, 5),
}  # fmt: skip
ARRANGEMENTS_OF_THREE = {
    "row": (3, 4, 5), "column": (1, 4, 7), "triangle": (1, 6, 8), "between": (4, 3, 5),
}  # fmt: skip
ROW_TWICE_AS_OFTEN = ("row", *ARRANGEMENTS_OF_THREE)
CORNERS = (0, 2, 6, 8)

THING_COUNT_WEIGHTS = (0.25, 0.30, 0.25, 0.20)
SHAPE_SHARE = 0.42
GRADIENT_SHARE = 0.35


def _digest(*key):
    """A number that is the same for the same key for ever, on every machine."""
    return int.from_bytes(hashlib.md5("|".join(map(str, key)).encode()).digest()[:4], "big")


HELD_OUT_COLOURS = frozenset(
    (shape, (3 * shape + 1) % len(COLOURS)) for shape in range(len(SHAPES))
)
HELD_OUT_PLACES = frozenset(
    (kind, cell)
    for kind in range(len(THINGS))
    for cell in range(CELLS)
    if _digest("p", kind, cell) % 10 == 0
)
HELD_OUT_PAIRS = frozenset(
    (a, b) for a, b in itertools.combinations(range(len(THINGS)), 2) if _digest("h", a, b) % 10 == 0
)


def held_out(things):
    """Which kinds of held-out combination the things show: "colour", "place", "pair"."""
    found = set()
    if any((thing.kind, thing.colour) in HELD_OUT_COLOURS for thing in things):
        found.add("colour")
    if any((thing.kind, thing.cell) in HELD_OUT_PLACES for thing in things):
        found.add("place")
    kinds = sorted(thing.kind for thing in things)
    if any(pair in HELD_OUT_PAIRS for pair in itertools.combinations(kinds, 2)):
        found.add("pair")
    return found


def _draw_cells(random, count, layout):
    """Cells of the things, and the word for their arrangement (empty where places are named)."""
    if count == 1:
        return ([4] if random.random() < 0.2 else [random.randrange(CELLS)]), ""
    if layout == "place":
        return random.sample(range(CELLS), count), ""
    if count == 2:
        word = random.choice(tuple(RELATIONS_OF_TWO))
        return RELATIONS_OF_TWO[word], word
    if count == 3:
        word = random.choice(ROW_TWICE_AS_OFTEN)
        return ARRANGEMENTS_OF_THREE[word], word
    return CORNERS, random.choice(("corners", "grid"))


def _draw_kinds(random, count):
    """Different (kind, colour) pairs."""
    drawn = []
    while len(drawn) < count:
        if random.random() < SHAPE_SHARE:
            one = (random.randrange(len(SHAPES)), random.randrange(len(COLOURS)))
        else:
            one = (random.randrange(len(SHAPES), len(THINGS)), -1)
        if one not in drawn:
            drawn.append(one)
    return drawn


_BACKGROUND_VALUES = tuple(BACKGROUNDS.values())
_VISIBLE = tuple(
    tuple(stands_out(colour, background) for background in _BACKGROUND_VALUES)
    for colour in COLOURS.values()
)


def _draw_background(random, colours):
    """A background from which every colour stands out, or None if 20 draws gave none."""
    for _ in range(20):
        top = random.randrange(len(BACKGROUNDS))
        bottom = random.randrange(len(BACKGROUNDS)) if random.random() < GRADIENT_SHARE else top
        if all(c < 0 or (_VISIBLE[c][top] and _VISIBLE[c][bottom]) for c in colours):
            return top, bottom
    return None


def _draw_sizes(random, cells):
    """A large thing has no neighbour, not even a diagonal one."""
    sizes = []
    for cell in cells:
        row, column = divmod(cell, 3)
        roomy = all(
            max(abs(row - other // 3), abs(column - other % 3)) >= 2
            for other in cells
            if other != cell
        )
        if not roomy:
            weights = (0.25, 0.75, 0)
        elif len(cells) == 1:
            weights = (0.25, 0.5, 0.25)
        else:
            weights = (0.18, 0.64, 0.18)
        sizes.append(random.choices((0, 1, 2), weights)[0])
    return sizes


def _layout(random, count):
    if count == 1:
        return "place"
    return random.choice(("relation" if count == 2 else "list", "place"))


def draw_scene(random, combinations, count=None, layout=None, count_weights=THING_COUNT_WEIGHTS):
    """A scene with its caption, from a `random.Random`.

    combinations: "seen" avoids all that is held out, "held-out" demands some, "any" takes both.
    """
    while True:
        n = count or random.choices(range(1, MAX_THINGS + 1), count_weights)[0]
        how = layout or _layout(random, n)
        cells, arrangement = _draw_cells(random, n, how)
        kinds = _draw_kinds(random, n)
        background = _draw_background(random, [colour for _, colour in kinds])
        if background is None:
            continue
        sizes = _draw_sizes(random, cells)
        things = tuple(Thing(*kind, cell, size) for kind, cell, size in zip(kinds, cells, sizes))
        if combinations == "any" or bool(held_out(things)) == (combinations == "held-out"):
            text = caption(random, things, background, how, arrangement)
            return Scene(things, background, how, text)


# The judged prompts: how many things and how their places are said, equally many of each.
JUDGED_KINDS = ((1, "place"), (2, "relation"), (2, "place"), (3, None), (4, None))


def judged_scenes(random, count):
    """`count` scenes with different captions, each with a held-out combination, kinds in turn."""
    scenes, captions = [], set()
    while len(scenes) < count:
        things, layout = JUDGED_KINDS[len(scenes) % len(JUDGED_KINDS)]
        scene = draw_scene(random, "held-out", things, layout)
        if scene.caption not in captions:
            captions.add(scene.caption)
            scenes.append(scene)
    return scenes
