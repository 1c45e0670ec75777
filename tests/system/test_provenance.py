"""Images say that a model made them, in IPTC's words, unless the configuration says otherwise."""

import io
import xml.etree.ElementTree

import harness
import pytest
from PIL import Image

SOURCE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
FORMATS = ("PNG", "JPEG", "WEBP")


def draw(server, name: str, embed_metadata: bool = False) -> bytes:
    pb, _ = harness.api()
    request = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red star"))
    request.sampling.steps, request.sampling.seed = 2, 5
    request.output.format = getattr(pb, f"IMAGE_FORMAT_{name}")
    request.output.embed_metadata = embed_metadata
    return harness.generate(server, request).images[0]


def xmp(file: bytes, name: str) -> str:
    """The packet that Pillow finds; empty if there is none."""
    with Image.open(io.BytesIO(file)) as picture:
        picture.load()
        assert picture.format == name
        found = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or ""
    return found if isinstance(found, str) else found.decode()


def sources(packet: str) -> list[str]:
    return [element.text for element in xml.etree.ElementTree.fromstring(packet).iter(SOURCE)]


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_says_that_a_model_made_it(server, name):
    file = draw(server, name)
    assert sources(xmp(file, name)) == [BY_A_MODEL]
    assert "a red star" not in xmp(file, name) and b"model_digest" not in file, "the rest only if asked for"
    assert draw(server, name) == file


@pytest.mark.parametrize("name", FORMATS)
def test_it_says_so_beside_its_parameters(server, name):
    file = draw(server, name, embed_metadata=True)
    assert sources(xmp(file, name)) == [BY_A_MODEL]
    assert b"a red star" in file and b"plan_digest" in file and b"arithmetic" in file


class Unmarked(harness.Group):
    def config(self) -> dict:
        return super().config() | {"provenance_mark": False}


def test_it_says_nothing_if_the_configuration_says_so():
    with harness.Server([Unmarked(harness.BUNDLED)]) as server:
        server.wait_ready()
        for name in FORMATS:
            assert xmp(draw(server, name), name) == ""
