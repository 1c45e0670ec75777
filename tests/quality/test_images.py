"""Images from folders and .npz files, and packing one into the other."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from bench.quality import errors, images, pack


def test_a_folder_is_read_by_name(save, noise):
    arrays = noise(3)
    folder = save("a", arrays)
    (folder / "generation.json").write_text("{}")
    source = images.Folder(folder)
    assert source.names == ["00000", "00001", "00002"]
    np.testing.assert_array_equal(np.stack(list(source)), arrays)


def test_batches_hold_every_image_once(save, noise):
    arrays = noise(5)
    batches = list(images.batches(images.Folder(save("a", arrays)), 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), arrays)


def test_crop_keeps_the_middle_and_the_proportions():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 11:29] = 255  # The middle square, and as far as Lanczos' filter reaches.
    cropped = np.asarray(images.Fit(20, 20)(Image.fromarray(wide)))
    assert cropped.shape == (20, 20, 3)
    assert cropped.min() == 255  # What is left and right of the middle square is cut off.
    stretched = np.asarray(images.Fit(20, 20, "stretch")(Image.fromarray(wide)))
    assert stretched[:, :3].max() == 0 and stretched[:, 10].min() == 255


def test_what_fits_is_not_touched(noise):
    array = noise(1)[0]
    assert np.array_equal(np.asarray(images.Fit(32, 32)(Image.fromarray(array))), array)


def test_packed_images_are_what_numpy_reads(save, noise, tmp_path):
    arrays = noise(4)
    assert pack.pack(images.Folder(save("a", arrays)), tmp_path / "a.npz") == (4, 32, 32, 3)
    with np.load(tmp_path / "a.npz") as file:
        assert file.files == ["arr_0"]
        np.testing.assert_array_equal(file["arr_0"], arrays)
    assert np.load(tmp_path / "a.npz")["arr_0"].dtype == np.uint8


def test_an_npz_is_streamed_whoever_wrote_it(noise, tmp_path):
    arrays = noise(4, 8, 6)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "b.npz", arrays)
        source = images.open_images(tmp_path / "b.npz")
        assert len(source) == 4
        np.testing.assert_array_equal(np.stack(list(source)), arrays)


def test_unequal_images_need_a_fit(save, noise, tmp_path):
    folder = save("a", [noise(1, 20, 30)[0], noise(1, 30, 20)[0]])
    with pytest.raises(errors.InputError, match=r"00001.png: is 20x30 px, not 30x20"):
        pack.pack(images.Folder(folder), tmp_path / "a.npz")
    assert not list(tmp_path.glob("*.npz*"))  # Neither a file nor half of one.
    fitted = images.Folder(folder, images.Fit(16, 16))
    assert pack.pack(fitted, tmp_path / "a.npz") == (2, 16, 16, 3)
    with pytest.raises(errors.InputError, match="00000.png: is 30x20 px, not 16x16"):
        list(images.Folder(folder, images.Fit(16, 16, "none")))


def test_corrupt_images_are_named(save, noise):
    folder = save("a", noise(2, 64, 64))
    whole = (folder / "00001.png").read_bytes()
    for damaged in (b"", b"not an image", whole[:200], whole[:60] + b"\0" * 40 + whole[100:]):
        (folder / "00001.png").write_bytes(damaged)
        with pytest.raises(errors.InputError, match="00001.png: can't be read as an image"):
            list(images.Folder(folder))


def refusal(path):
    with pytest.raises(errors.InputError) as raised:
        list(images.open_images(path))
    assert str(raised.value).startswith(str(path))
    return str(raised.value)


def test_wrong_npz_files_are_named(tmp_path, noise):
    path = tmp_path / "w.npz"
    np.savez(path, mu=np.zeros(3))
    assert "has no arr_0, only mu" in refusal(path)
    np.savez(path, noise(2).astype(np.float32))
    assert "arr_0 is float32 [2, 32, 32, 3], should be uint8 [N, H, W, 3]" in refusal(path)
    np.savez(path, noise(2)[..., 0])
    assert "arr_0 is uint8 [2, 32, 32]" in refusal(path)
    path.write_bytes(b"text")
    assert "can't be read as .npz" in refusal(path)
    np.savez(path, noise(2))
    path.write_bytes(path.read_bytes()[:3000])
    assert "can't be read as .npz" in refusal(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", b"nonsense")
    assert "arr_0 is no array" in refusal(path)


def test_an_npz_with_too_few_bytes_is_named(tmp_path):
    path = tmp_path / "short.npz"
    with zipfile.ZipFile(path, "w") as file, file.open("arr_0.npy", "w") as stream:
        header = dict(descr="|u1", fortran_order=False, shape=(2, 8, 8, 3))
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(bytes(8 * 8 * 3 + 5))
    assert "image 1: 5 bytes, should be 192" in refusal(path)


def test_empty_and_absent_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refusal(tmp_path / "empty")
    assert "does not exist" in refusal(tmp_path / "absent")


def test_a_listing_gives_the_order_of_the_captions(save, noise, tmp_path):
    arrays = noise(3)
    save("coco/val2014", arrays[:2])
    save("coco", arrays[2:])
    (tmp_path / "dataset_coco.json").write_text(
        json.dumps(
            dict(
                images=[
                    dict(filepath="val2014", filename="00001.png", sentences=[]),
                    dict(file_name="00000.png"),
                    dict(filepath="val2014", filename="00000.png"),
                ]
            )
        )
    )
    files = images.listed(tmp_path / "coco", tmp_path / "dataset_coco.json")
    source = images.Folder(tmp_path / "coco", None, files)
    np.testing.assert_array_equal(np.stack(list(source)), arrays[[1, 2, 0]])
    for text, words in (("{", "JSONDecodeError"), ("{}", "KeyError: 'images'"), ('{"images": [3]}', "")):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(errors.InputError, match=f"broken.json: lists no images: .*{words}"):
            images.listed(tmp_path, tmp_path / "broken.json")
    (tmp_path / "coco" / "00000.png").unlink()
    with pytest.raises(errors.InputError, match="coco/00000.png: can't be read as an image"):
        list(source)


def test_the_program_packs_and_refuses(save, noise, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, pack.__file__, *map(str, arguments)], capture_output=True, text=True
        )

    folder, out = save("a", noise(3, 20, 30)), tmp_path / "a.npz"
    done = run(folder, out, "--size", 16, "--count", 2)
    assert done.stdout == f"{out}: arr_0 uint8 [2, 16, 16, 3]\n", done.stderr
    done = run(folder, out, "--count", 4)
    assert (done.returncode, done.stderr) == (2, f"pack: {folder}: --count 4, but it has 3 images\n")
