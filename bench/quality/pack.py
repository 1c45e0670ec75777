#!/usr/bin/env python3
"""Packs a folder of images into the .npz that the guided-diffusion evaluator reads.

    bench/quality/pack.py FOLDER OUT.npz [--size 256] [--fit crop|stretch|none] [--count N]
                          [--listing dataset_coco.json]

OUT holds arr_0, uint8 [N, H, W, 3], the images by name. --size (WxH, or one number for both) and
--fit say what becomes of images of other sizes, such as COCO's photographs: "crop" fills the size
and cuts the middle out, "stretch" does not keep proportions, "none" refuses them. Without --size
all images must have the size of the first. --listing takes the images that the captions of a COCO
file belong to, in their order. One image is in memory at a time.
"""

import argparse
import pathlib
import sys
import zipfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from bench.quality import errors, images  # noqa: E402


def pack(source: images.Folder | images.Npz, out: pathlib.Path, count: int | None = None) -> tuple:
    """Writes the first `count` images (all if None); returns the array's shape."""
    count = len(source) if count is None else count
    if not 0 < count <= len(source):
        raise errors.InputError(f"{source.path}: --count {count}, but it has {len(source)} images")
    partial = out.with_name(out.name + ".part")
    shape = ()
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
            with file.open(images.ARRAY + ".npy", "w", force_zip64=True) as stream:
                for number, image in zip(range(count), source):
                    if number == 0:
                        shape = (count, *image.shape)
                        header = dict(descr="|u1", fortran_order=False, shape=shape)
                        np.lib.format.write_array_header_1_0(stream, header)
                    stream.write(np.ascontiguousarray(image).data)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return shape


def add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="pixels, or one for both")
    parser.add_argument("--fit", choices=images.MODES, default="crop", help="how to get there")
    parser.add_argument("--resampling", choices=images.RESAMPLING, default="lanczos")


def fit_of(arguments: argparse.Namespace) -> images.Fit | None:
    if not arguments.size:
        return None
    return images.Fit(*arguments.size, arguments.fit, arguments.resampling)


def parse_size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH")
    return (sides[0], sides[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, help="only the first so many")
    parser.add_argument("--listing", type=pathlib.Path, metavar="JSON", help="of COCO")
    add_fit(parser)
    arguments = parser.parse_args()
    fit = fit_of(arguments)
    if arguments.listing:
        files = images.listed(arguments.folder, arguments.listing)
        source = images.Folder(arguments.folder, fit, files)
    else:
        source = images.open_images(arguments.folder, fit)
    shape = pack(source, arguments.out, arguments.count)
    print(f"{arguments.out}: {images.ARRAY} uint8 {list(shape)}")


if __name__ == "__main__":
    errors.run(main, "pack")
