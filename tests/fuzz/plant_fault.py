#!/usr/bin/env python3
"""Copies a source file with one piece of it replaced.

    plant_fault.py FILE PIECE FAULT OUT

Ends with 1 unless the piece is there exactly once, so that a copy with a fault never equals its original.
"""

import pathlib
import sys


def main() -> None:
    source, piece, fault, out = sys.argv[1:]
    text = pathlib.Path(source).read_text()
    if text.count(piece) != 1:
        raise SystemExit(f"{source} has {text.count(piece)} of {piece!r}, not one")
    pathlib.Path(out).write_text(text.replace(piece, fault))


if __name__ == "__main__":
    main()
