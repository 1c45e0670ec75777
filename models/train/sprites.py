#!/usr/bin/env python3
"""The pictures of all things, one sheet: shapes in white (tinted when drawn) and Noto's emoji.

    models/train/sprites.py --font NotoColorEmoji.ttf [--out FILE]    draws data/sprites.png

The sheet is committed, so that training needs no font. Emoji: Noto Color Emoji (Debian package
fonts-noto-color-emoji), copyright Google, SIL Open Font License 1.1.
"""

import argparse
import math
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHEET = pathlib.Path(__file__).parent / "data" / "sprites.png"
SIDE_PX = 128
COLUMNS = 10
EMOJI_PX = 124  # leaves a clear edge, as shapes do
FONT_SIZE = 109  # the only one in which Noto has its bitmaps
OVERSAMPLING = 8


def _on_circle(points, start_degrees, radius=1.0):
    angles = (math.radians(start_degrees + 360 * i / points) for i in range(points))
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _heart():
    turns = [2 * math.pi * i / 400 for i in range(400)]
    return [
        (
            16 * math.sin(t) ** 3 / 17,
            (5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t) - 13 * math.cos(t) - 2.5)
            / 17,
        )
        for t in turns
    ]


def _cross(half=0.34):
    quarter = [(-half, -1), (half, -1), (half, -half), (1, -half), (1, half), (half, half)]
    return quarter + [(-x, -y) for x, y in quarter]


def _star():
    tips, dents = _on_circle(5, -90), _on_circle(5, -54, 0.42)
    return [point for pair in zip(tips, dents) for point in pair]


# Outlines in units of the radius, y downwards.
POLYGONS = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0, -0.9), (1, 0.8), (-1, 0.8)],
    "star": _star(),
    "heart": _heart(),
    "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "cross": _cross(),
    "hexagon": _on_circle(6, 0),
}
# Discs: what is cut out of them, as (centre x, radius).
DISCS = {"circle": None, "ring": (0, 0.55), "crescent": (0.42, 0.82)}


def draw_shape(name):
    """[128, 128, 4] uint8: white with the shape as alpha."""
    side = SIDE_PX * OVERSAMPLING
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    centre, radius = side / 2, side * 0.48

    def disc(x, size, fill):
        left, reach = centre + x * radius, size * radius
        pen.ellipse([left - reach, centre - reach, left + reach, centre + reach], fill=fill)

    if name in DISCS:
        disc(0, 1, 255)
        if DISCS[name]:
            disc(*DISCS[name], 0)
    else:
        pen.polygon([(centre + x * radius, centre + y * radius) for x, y in POLYGONS[name]], 255)
    alpha = np.asarray(image.resize((SIDE_PX, SIDE_PX), Image.BOX))
    return np.dstack([np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8), alpha])


def draw_emoji(character, font):
    """[128, 128, 4] uint8, straight alpha: the glyph, centred, its longer side 124 px."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 8), character, font=font, embedded_color=True)
    glyph = canvas.crop(canvas.getbbox())
    longest = max(glyph.size)
    square = Image.new("RGBA", (longest, longest))
    square.paste(glyph, ((longest - glyph.width) // 2, (longest - glyph.height) // 2))
    scaled = square.resize((EMOJI_PX, EMOJI_PX), Image.BICUBIC)  # Pillow premultiplies RGBA here
    sprite = Image.new("RGBA", (SIDE_PX, SIDE_PX))
    sprite.paste(scaled, ((SIDE_PX - EMOJI_PX) // 2,) * 2)
    return np.asarray(sprite)


def draw_sheet(font_file):
    from .vocabulary import EMOJI, SHAPES

    font = ImageFont.truetype(str(font_file), FONT_SIZE)
    sprites = [draw_shape(name) for name in SHAPES]
    sprites += [draw_emoji(character, font) for character in EMOJI.values()]
    rows = -(-len(sprites) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SIDE_PX, rows * SIDE_PX))
    for number, sprite in enumerate(sprites):
        row, column = divmod(number, COLUMNS)
        sheet.paste(Image.fromarray(sprite), (column * SIDE_PX, row * SIDE_PX))
    return sheet


def read_sheet(path=SHEET):
    """[things, 4, 128, 128] float32 in 0..1, RGB premultiplied with alpha; order of THINGS."""
    from .vocabulary import THINGS

    sheet = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255
    rows = sheet.shape[0] // SIDE_PX
    cut = sheet.reshape(rows, SIDE_PX, COLUMNS, SIDE_PX, 4).transpose(0, 2, 4, 1, 3)
    sprites = cut.reshape(-1, 4, SIDE_PX, SIDE_PX)[: len(THINGS)].copy()
    sprites[:, :3] *= sprites[:, 3:]
    return sprites


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--font", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=SHEET)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(arguments.font).save(arguments.out, optimize=True)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
    from models.train import sprites

    sprites.main()
