"""What a scene can hold, and the words for it. Everything else refers to these tables by position.

A checkpoint knows things, colours, backgrounds, cells and sizes only as positions, so the order of
every table is part of the model.
"""

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "ring",
    "heart",
    "diamond",
    "cross",
    "hexagon",
    "crescent",
)

EMOJI = {
    "cat": "🐱", "dog": "🐶", "rabbit": "🐰", "fox": "🦊", "panda": "🐼", "pig": "🐷", "frog": "🐸",
    "monkey": "🐵", "lion": "🦁", "tiger": "🐯", "penguin": "🐧", "owl": "🦉", "fish": "🐟",
    "whale": "🐳", "octopus": "🐙", "butterfly": "🦋", "bee": "🐝", "ladybug": "🐞", "turtle": "🐢",
    "elephant": "🐘", "apple": "🍎", "banana": "🍌", "strawberry": "🍓", "watermelon": "🍉",
    "lemon": "🍋", "pineapple": "🍍", "carrot": "🥕", "pizza": "🍕", "burger": "🍔", "donut": "🍩",
    "cupcake": "🧁", "car": "🚗", "bus": "🚌", "train": "🚂", "tractor": "🚜", "airplane": "✈",
    "rocket": "🚀", "sailboat": "⛵", "bicycle": "🚲", "house": "🏠", "castle": "🏰", "tree": "🌳",
    "cactus": "🌵", "sunflower": "🌻", "mushroom": "🍄", "sun": "🌞", "cloud": "☁", "umbrella": "☂",
    "snowman": "⛄", "key": "🔑", "clock": "⏰", "guitar": "🎸", "balloon": "🎈", "gift": "🎁",
    "crown": "👑", "robot": "🤖", "ghost": "👻", "book": "📕", "bell": "🔔", "football": "⚽",
}  # fmt: skip

THINGS = SHAPES + tuple(EMOJI)

COLOURS = {  # of shapes, RGB in 0..255
    "red": (214, 39, 40), "orange": (245, 135, 25), "yellow": (250, 215, 40),
    "green": (40, 150, 60), "blue": (35, 90, 215), "purple": (130, 55, 175),
    "pink": (245, 105, 180), "brown": (125, 75, 40), "black": (20, 20, 20),
    "white": (250, 250, 250),
}  # fmt: skip

BACKGROUNDS = {
    "white": (252, 252, 252), "black": (12, 12, 12), "gray": (150, 150, 150),
    "light blue": (165, 210, 245), "light green": (180, 235, 180),
    "light pink": (250, 205, 220), "light yellow": (252, 245, 185),
    "light purple": (215, 195, 245), "dark blue": (20, 30, 95), "dark green": (15, 75, 40),
    "dark red": (105, 15, 25), "dark purple": (65, 20, 95),
}  # fmt: skip

IMAGE_PX = 256
CELLS = 9  # three rows of three, numbered from the top left
CELL_CENTRES_PX = (44, 128, 212)
CENTRE_JITTER_PX = 4

SIZE_WORDS = (("small", "little"), ("",), ("large", "big"))
SIZES_PX = (66, 82, 112)  # side of the sprite's square; the thing itself fills 31/32 of it
SIZE_JITTER = 0.04  # relative, so that nothing is drawn smaller than 61 px

MAX_THINGS = 4

PLACES = (
    ("in the top left corner", "at the top left", "in the upper left corner", "in the upper left"),
    ("at the top", "in the top middle", "at the top centre", "at the top center"),
    (
        "in the top right corner", "at the top right", "in the upper right corner",
        "in the upper right",
    ),
    ("on the left", "on the left side", "at the left", "to the left"),
    ("in the centre", "in the middle", "in the center", "at the centre"),
    ("on the right", "on the right side", "at the right", "to the right"),
    (
        "in the bottom left corner", "at the bottom left", "in the lower left corner",
        "in the lower left",
    ),
    ("at the bottom", "in the bottom middle", "at the bottom centre", "at the bottom center"),
    (
        "in the bottom right corner", "at the bottom right", "in the lower right corner",
        "in the lower right",
    ),
)  # fmt: skip


def stands_out(colour, background):
    """Whether a shape of that colour can be told from that background."""
    apart = [abs(a - b) for a, b in zip(colour, background)]
    return sum(apart) > 130 and sum(part * part for part in apart) > 95 * 95
