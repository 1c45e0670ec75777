"""Feature networks: the checker, TorchScript and ONNX."""

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from bench.quality import errors, features, images, networks, prompts, scores
from models import evaluate
from tests.quality.tiny import Tiny, script


class Two(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = images.float()
        return x.mean((2, 3)), x[:, [0, 1, 2, 0, 1, 2, 0]]


class Flat(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((1, 2, 3))


def test_a_script_gives_what_it_names(tmp_path, noise):
    batch = noise(4)
    outputs = networks.open_network(script(Tiny(), tmp_path / "tiny.pt"))(batch)
    np.testing.assert_allclose(outputs["pool"], batch.mean((1, 2)) / 255, rtol=1e-4)
    assert outputs["spatial"].shape == (4, 7, 4, 4)
    assert outputs["logits"].shape == (4, 3)


def test_outputs_that_are_missing_are_left_out(tmp_path, noise):
    network = networks.open_network(script(Tiny(spatial=False), tmp_path / "tiny.pt"))
    assert set(network(noise(2))) == {"pool", "logits"}
    found = features.extract(noise(5), network, batch=2)
    assert found.spatial is None and found.pool.shape == (5, 3)


def test_a_tuple_is_taken_in_order(tmp_path, noise):
    outputs = networks.open_network(script(Two(), tmp_path / "two.pt"))(noise(2))
    assert {name: value.ndim for name, value in outputs.items()} == dict(pool=2, spatial=4)


def test_onnx_gives_what_torchscript_gives(tmp_path, noise):
    batch = noise(3)
    images_in = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", 3, 32, 32])
    shapes = dict(pool=["n", 3], spatial=["n", 7, 32, 32])
    outputs = [onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in shapes.items()]
    channels = onnx.numpy_helper.from_array(np.array([0, 1, 2, 0, 1, 2, 0]), "channels")
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["x"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["pool"]),
        onnx.helper.make_node("Gather", ["x", "channels"], ["spatial"], axis=1),
    ]
    graph = onnx.helper.make_graph(nodes, "two", [images_in], outputs, [channels])
    opset = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "two.onnx")
    found = networks.open_network(tmp_path / "two.onnx")(batch)
    for name, value in networks.open_network(script(Two(), tmp_path / "two.pt"))(batch).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_wrong_files_and_shapes_are_named(tmp_path, noise):
    for name in ("a.pt", "a.onnx"):
        with pytest.raises(errors.InputError, match=f"{name}: is no file"):
            networks.open_network(tmp_path / name)
        (tmp_path / name).write_text("text")
        with pytest.raises(errors.InputError, match=f"{name}: can't be loaded"):
            networks.open_network(tmp_path / name)
    flat = networks.open_network(script(Flat(), tmp_path / "flat.pt"))
    with pytest.raises(errors.InputError, match=r"flat.pt: pool is \[2\] for 2 images, not \[N, D\]"):
        flat(noise(2))


@pytest.fixture(scope="module")
def checker():
    return networks.CheckerNetwork()


def test_the_checker_has_at_most_128_features(checker, noise):
    outputs = checker(noise(2, 256, 256))
    assert outputs["pool"].shape == (2, 128)
    assert outputs["spatial"].shape == (2, 7, 4, 4)
    assert outputs["logits"].shape == (2, 70)
    assert all(np.isfinite(value).all() for value in outputs.values())


@pytest.fixture(scope="module")
def drawn():
    """Twelve judged scenes, and perfect images of them."""
    scenes = evaluate.judged_scenes(12)
    return scenes, np.concatenate(list(prompts.rendered(scenes)))


def test_features_tell_damaged_images_from_perfect_ones(checker, drawn):
    perfect = features.extract(drawn[1], checker)
    noisy = features.extract(drawn[1] // 4 * 3 + 30, checker)
    assert scores.frechet_distance(*(scores.statistics(f.pool) for f in (perfect, noisy))) > 1e-3
    things = np.exp(perfect.logits)
    assert things.max(1).min() > 0.8  # Each image holds something that is seen for sure.


def test_judge_gives_the_verdicts_of_models_evaluate(checker, drawn):
    scenes, pictures = drawn
    pictures = pictures.copy()
    pictures[3] = pictures[4]  # Shows another prompt.
    judge = prompts.Judge(checker.checker, scenes)
    for batch in images.batches(pictures, 5):
        judge(batch)
    mine = judge.verdicts()
    means, shown = evaluate.verdicts(
        checker.checker, [Image.fromarray(picture) for picture in pictures], scenes, "cpu"
    )
    assert mine["shown"].astype(bool).tolist() == shown
    assert not shown[3] and sum(shown) == 11
    for name, mean in means.items():
        assert np.nanmean(mine[name]) == pytest.approx(mean, abs=1e-4), name


def test_captions_that_nobody_can_judge_are_named():
    known = evaluate.judged_scenes(2)
    assert prompts.scenes_of([scene.caption for scene in known], "c.txt") == known
    with pytest.raises(errors.InputError, match="c.txt:2: is not a prompt that the checker can judge"):
        prompts.scenes_of([known[0].caption, "a photo of love"], "c.txt")
