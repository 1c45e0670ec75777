"""Splitting weights into shards, and the bundled model's own shards."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from models import evaluate, shard


@pytest.fixture
def component(tmp_path):
    generator = np.random.default_rng(0)
    tensors = {
        f"block.{n}.weight": generator.standard_normal((n + 1, 8)).astype(np.float16)
        for n in range(9)
    }
    tensors["bias"] = generator.standard_normal(3).astype(np.float32)
    save_file(tensors, tmp_path / shard.WHOLE, metadata=shard.METADATA)
    return tmp_path, tensors


@pytest.mark.parametrize("shards", [1, 2, 3, 10])
def test_sharding_loses_nothing(component, shards):
    directory, tensors = component
    shard.write_shards(directory, tensors, shards)
    assert not (directory / shard.WHOLE).exists()
    assert len(list(directory.glob("*.safetensors"))) == shards
    assert shard.same_tensors(shard.read_component(directory), tensors)


def test_index_gives_the_total_size(component):
    directory, tensors = component
    shard.write_shards(directory, tensors, 2)
    index = json.loads((directory / shard.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert set(index["weight_map"]) == set(tensors)


@pytest.mark.parametrize("shards", [0, 11])
def test_impossible_numbers_of_shards_are_refused(component, shards):
    directory, tensors = component
    with pytest.raises(ValueError, match=f"shards: {shards} is not in 1..10"):
        shard.write_shards(directory, tensors, shards)


def test_one_changed_bit_is_noticed(component):
    _, tensors = component
    changed = {name: tensor.copy() for name, tensor in tensors.items()}
    changed["bias"].view(np.uint32)[0] ^= 1
    assert not shard.same_tensors(tensors, changed)


def test_an_index_without_a_tensor_is_refused(component):
    directory, tensors = component
    shard.write_shards(directory, tensors, 2)
    index = json.loads((directory / shard.INDEX).read_text())
    index["weight_map"].pop("bias")
    (directory / shard.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="different tensors"):
        shard.read_component(directory)


def test_bundled_transformer_is_sharded_and_loads_in_stock_diffusers():
    from diffusers import PixArtTransformer2DModel

    directory = evaluate.MODEL / "transformer"
    assert len(list(directory.glob("*.safetensors"))) == 2
    stored = shard.read_component(directory)
    loaded = PixArtTransformer2DModel.from_pretrained(directory).state_dict()
    assert set(stored) == set(loaded)
    for name, tensor in stored.items():
        np.testing.assert_array_equal(loaded[name].numpy(), tensor.astype(np.float32))


def test_bundled_model_is_at_most_20_MB():
    sizes = [path.stat().st_size for path in evaluate.MODEL.rglob("*") if path.is_file()]
    assert sum(sizes) <= 20_000_000
