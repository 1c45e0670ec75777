"""Scores of pairs, against torchmetrics."""

import numpy as np
import pytest
import torch
import torchvision
from torchmetrics.functional.image import (
    learned_perceptual_image_patch_similarity,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from bench.quality import errors, images, pairs


def as_tensor(batch):
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255


@pytest.fixture
def two(noise, rng):
    one = noise(3, 40, 30)
    shift = rng.integers(-30, 30, one.shape) * np.array([1, 2, 3]).reshape(3, 1, 1, 1)
    other = np.clip(one + shift, 0, 255).astype(np.uint8)
    one[0] //= 10  # Dark, and dim: where the constants of SSIM matter.
    other[0] = other[0] // 10 + 2
    return one, other


def test_psnr_is_torchmetrics_image_by_image(two):
    wanted = [
        peak_signal_noise_ratio(as_tensor(x[None]), as_tensor(y[None]), data_range=1.0).item()
        for x, y in zip(*two)
    ]
    np.testing.assert_allclose(pairs.psnr(*two), wanted, rtol=1e-5)
    assert pairs.psnr(two[0], two[0]).tolist() == [pairs.EQUAL_DB] * 3


def test_ssim_is_torchmetrics_where_the_window_fits(two):
    _, everywhere = structural_similarity_index_measure(
        as_tensor(two[0]), as_tensor(two[1]), data_range=1.0, reduction="none", return_full_image=True
    )
    wanted = everywhere[..., 5:-5, 5:-5].mean((1, 2, 3))
    np.testing.assert_allclose(pairs.ssim(*two), wanted.numpy(), rtol=1e-4)
    np.testing.assert_allclose(pairs.ssim(two[0], two[0]), 1, atol=1e-6)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def test_lpips_is_torchmetrics_with_the_same_weights(noise, alexnet, monkeypatch):
    one, other = noise(2, 64, 64), noise(2, 64, 64)
    network = torchvision.models.alexnet(weights=None)
    network.load_state_dict(torch.load(alexnet))
    monkeypatch.setattr(
        "torchmetrics.functional.image.lpips._get_tv_model_features",
        lambda net, pretrained=False: network.features,
    )
    wanted = learned_perceptual_image_patch_similarity(
        as_tensor(one), as_tensor(other), reduction="none", normalize=True
    )
    monkeypatch.undo()
    lpips = pairs.Lpips(alexnet)
    np.testing.assert_allclose(lpips(one, other), wanted.numpy(), rtol=1e-4)
    assert (lpips(one, one) == 0).all()


def test_lpips_refuses_other_weights(tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "small.pth")
    with pytest.raises(errors.InputError, match=r"small.pth: has no features.0.weight \[64, 3, 11, 11\]"):
        pairs.Lpips(tmp_path / "small.pth")
    (tmp_path / "text.pth").write_text("text")
    with pytest.raises(errors.InputError, match="text.pth: can't be read as weights"):
        pairs.Lpips(tmp_path / "text.pth")


def test_compare_streams_in_batches(save, two):
    one, other = (images.Folder(save(name, batch)) for name, batch in zip("ab", two))
    found = pairs.compare(one, other, batch=2)
    np.testing.assert_allclose(found["psnr_db"], pairs.psnr(*two))
    np.testing.assert_allclose(found["ssim"], pairs.ssim(*two), atol=1e-6)


def test_compare_refuses_what_is_no_pair(save, two, noise):
    one, fewer = images.Folder(save("a", two[0])), images.Folder(save("b", two[1][:2]))
    with pytest.raises(errors.InputError, match="b: 2 images, but .*a has 3"):
        pairs.compare(one, fewer)
    other_size = images.Folder(save("c", noise(3, 30, 30)))
    with pytest.raises(errors.InputError, match="c: images of 30x30 px, but .*a has 30x40"):
        pairs.compare(one, other_size)
    renamed = save("d", two[0])
    (renamed / "00001.png").rename(renamed / "00007.png")
    with pytest.raises(errors.InputError, match="d: 00002 stands where .*a has 00001"):
        pairs.compare(one, images.Folder(renamed))
