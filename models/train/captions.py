"""Sentences that describe a scene, in several phrasings."""

from .vocabulary import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZE_WORDS, THINGS

_COLOUR_WORDS = tuple(COLOURS)
_BACKGROUND_WORDS = tuple(BACKGROUNDS)

TWO = {
    "above": ("{} above {}", "{} over {}", "{} on top of {}"),
    "below": ("{} below {}", "{} under {}", "{} beneath {}"),
    "left": ("{} to the left of {}", "{} left of {}", "{} on the left of {}"),
    "right": ("{} to the right of {}", "{} right of {}", "{} on the right of {}"),
    "and": ("{} and {}", "{} next to {}", "{} beside {}"),
}
THREE = {
    "row": ("{}, {} and {}", "{}, {} and {} in a row", "{}, {}, {} side by side"),
    "column": ("{} above {} above {}", "{}, {} and {} in a column", "{} over {} over {}"),
    "triangle": ("{} above {} and {}", "{} over {} and {}"),
    "between": ("{} between {} and {}",),
}
FOUR = {
    "corners": ("{}, {}, {} and {} in the four corners", "{}, {}, {} and {} in the corners"),
    "grid": (
        "{} and {} above {} and {}",
        "{} and {} over {} and {}",
        "{} and {} at the top, {} and {} at the bottom",
    ),
}
ARRANGED = {2: TWO, 3: THREE, 4: FOUR}

OPENINGS = ("a picture of ", "an image of ", "a drawing of ")
PLAIN = (
    "{} on a {} background",
    "{} on a {} background",
    "{} on a {} background",
    "{} with a {} background",
    "{}, {} background",
)
GRADIENT = (
    "{} on a gradient from {} to {}",
    "{} on a {} to {} gradient background",
    "{} with a background fading from {} to {}",
    "{}, gradient background from {} to {}",
)

TERSE_SHARE = 0.12  # captions without articles
OPENING_SHARE = 0.3
BACKGROUND_SHARE = 0.75  # captions that say the background


def _noun(random, thing, terse):
    """ "a small red circle", "an apple"."""
    usual, *others = SIZE_WORDS[thing.size]
    words = [usual if not others or random.random() < 0.7 else random.choice(others)]
    if thing.kind < len(SHAPES):
        words.append(_COLOUR_WORDS[thing.colour])
    words.append(THINGS[thing.kind])
    text = " ".join(filter(None, words))
    if terse:
        return text
    return ("an " if text[0] in "aeiou" else "a ") + text


def _listed(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _placed(random, nouns, things):
    """The things with their places named: "a cat at the top and a dog on the left"."""
    places = [random.choice(PLACES[thing.cell]) for thing in things]
    if len(things) == 1 and things[0].cell == 4 and random.random() < 0.5:
        return nouns[0]
    style = random.random()
    after = [f"{noun} {place}" for noun, place in zip(nouns, places)]
    if style < 0.65:
        return _listed(after)
    if style < 0.85:
        return _listed([f"{place} {noun}" for noun, place in zip(nouns, places)])
    return ", ".join(after)


def _with_background(random, text, background):
    top, bottom = (_BACKGROUND_WORDS[index] for index in background)
    if top != bottom:
        return random.choice(GRADIENT).format(text, top, bottom)
    if random.random() < 0.15:
        return f"on a {top} background, {text}"
    return random.choice(PLAIN).format(text, top)


def caption(random, things, background, layout, arrangement):
    """The sentence. layout and arrangement as drawn by `scenes`."""
    terse = random.random() < TERSE_SHARE
    nouns = [_noun(random, thing, terse) for thing in things]
    if layout == "place":
        text = _placed(random, nouns, things)
    else:
        text = random.choice(ARRANGED[len(things)][arrangement]).format(*nouns)
    if not terse and random.random() < OPENING_SHARE:
        text = random.choice(OPENINGS) + text
    if random.random() < BACKGROUND_SHARE:
        text = _with_background(random, text, background)
    return text
