"""Reads what image_test.cc wrote: every picture of a folder in every format against its raw pixels, and the metadata."""

import pathlib
import sys
import xml.etree.ElementTree

import numpy
from PIL import Image

PROMPT = "a <red> \N{TULIP} & \N{LATIN SMALL LETTER E WITH ACUTE}t\N{LATIN SMALL LETTER E WITH ACUTE}"
XMP_PROMPT = PROMPT.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

SOURCE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def sources(packet):
    return [element.text for element in xml.etree.ElementTree.fromstring(packet).iter(SOURCE)]


def psnr(a, b):
    error = numpy.mean((a.astype(float) - b.astype(float)) ** 2)
    return numpy.inf if error == 0 else 10 * numpy.log10(255**2 / error)


def check(raw_path):
    width, height = (int(n) for n in raw_path.stem.split("-")[1].split("x"))
    pixels = numpy.fromfile(raw_path, dtype=numpy.uint8).reshape(height, width, 3)

    with Image.open(raw_path.with_suffix(".png")) as png:
        png.load()
        assert png.mode == "RGB" and numpy.array_equal(numpy.asarray(png), pixels), raw_path
        texts = dict(png.text)
        assert sources(texts.pop("XML:com.adobe.xmp")) == [BY_A_MODEL]
        assert texts == {"prompt": PROMPT, "seed": "42"}, texts

    for suffix in (".jpg", ".webp"):
        with Image.open(raw_path.with_suffix(suffix)) as lossy:
            xmp = lossy.info["xmp"].decode()
            assert sources(xmp) == [BY_A_MODEL], xmp
            assert f"<patchflow:prompt>{XMP_PROMPT}</patchflow:prompt>" in xmp, xmp
            decoded = numpy.asarray(lossy.convert("RGB"))
            assert decoded.shape == pixels.shape, raw_path
            if not raw_path.stem.startswith("2-"):  # Noise does not survive.
                assert psnr(decoded, pixels) > 30, (raw_path, suffix, psnr(decoded, pixels))


paths = sorted(pathlib.Path(sys.argv[1]).glob("*.rgb"))
assert len(paths) == 9, paths
for path in paths:
    check(path)
