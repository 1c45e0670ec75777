"""patchflow replay against the real server: its own images, and those of another plan."""

import json
import subprocess

import harness
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def patchflow(server, *arguments):
    command = [harness.BIN / "patchflow", *arguments, "--server", server.address]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def image(server, tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "star.png"
    options = ["--seed", "5", "--steps", "6", "--guidance", "2.3456789", "--negative", "a cat", "--count", "2"]
    drawn = patchflow(server, "generate", "a red star", *options, "--embed-metadata", "--out", f"{path}-{{index}}")
    assert drawn.returncode == 0, drawn.stderr
    return path.with_name("star.png-1")


@pytest.fixture(scope="module")
def other():
    """A server of another plan."""
    two = harness.Group(harness.BUNDLED, ranks=2, layout={"pipefusion": 2, "patches": 2, "warmup_steps": 1})
    with harness.Server([two]) as running:
        yield running.wait_ready()


def test_an_image_of_the_same_plan_is_identical(server, image):
    again = patchflow(server, "replay", image, "--quiet")
    assert (again.returncode, again.stdout) == (0, f"{image}: identical\n"), again.stderr


@pytest.mark.parametrize("quality", [[], ["--quality", "61"]])
@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_lossy_images_are_identical_too(server, other, tmp_path, format, quality):
    path = tmp_path / f"star.{format}"
    options = ["--seed", "6", "--steps", "3", "--format", format, *quality, "--embed-metadata", "--out", path]
    drawn = patchflow(server, "generate", 'a <red> & "blue" star', *options)
    assert drawn.returncode == 0, drawn.stderr
    again = patchflow(server, "replay", path, "--quiet")
    assert (again.returncode, again.stdout) == (0, f"{path}: identical\n"), again.stderr
    again = patchflow(other, "replay", path, "--json")
    told = json.loads(again.stdout)
    fields = {each["field"]: (each["then"], each["now"]) for each in told["differences"]}
    assert fields["layout"] == ("serial", "pipefusion=2,patches=2,warmup_steps=1") and again.returncode == 1, again.stderr
    assert fields.keys() - {"arithmetic"} == {"layout", "plan_digest"} and not told["identical"]


def test_an_image_tells_its_whole_plan(image):
    with Image.open(image) as picture:
        told = picture.text
    assert told["build"].startswith("0.1.0+") and told["batch"] == "1" and "LibTorch" in told["arithmetic"]
    assert float(told["guidance_scale"]) == pytest.approx(2.3456789, rel=1e-7)


def test_the_fields_of_another_plan_are_named(other, image, tmp_path):
    again = patchflow(other, "replay", image, "--json", "--out", tmp_path / "again.png")
    assert again.returncode == 1, again.stderr
    told = json.loads(again.stdout)
    fields = {each["field"]: (each["then"], each["now"]) for each in told["differences"]}
    assert fields.pop("layout") == ("serial", "pipefusion=2,patches=2,warmup_steps=1")
    # A rank has half of the threads here.
    assert fields.keys() - {"arithmetic"} == {"plan_digest"}
    assert not told["same_picture"] and 20 < told["psnr_db"] < 80 and (tmp_path / "again.png").exists()


def test_an_image_that_was_changed_is_found(server, image, tmp_path):
    changed = tmp_path / "changed.png"
    with Image.open(image) as picture:
        texts = PngInfo()
        for key, value in picture.text.items():
            texts.add_itxt(key, value)
        picture.putpixel((3, 4), tuple(255 - value for value in picture.getpixel((3, 4))))
        picture.save(changed, pnginfo=texts)
    again = patchflow(server, "replay", changed)
    assert again.returncode == 1 and "another picture: 0.00 % of its bytes differ" in again.stdout
    assert "the plan is the same: this should not be" in again.stdout
