"""Plans of comparisons."""

import dataclasses
import json

import pytest

from bench.quality import errors, plan


def test_the_standard_plan_has_every_row_of_the_comparison():
    found = plan.standard(2000, 500)
    by_name = {one.name: one for one in found.configurations}
    assert [one.name for one in found.configurations if one.prompts == 2000] == [
        "serial", "serial, 15 steps", "serial, 12 steps", "serial, 10 steps", "serial, reseeded 1",
        "serial, reseeded 2", "serial, reseeded 3", "pipefusion 2 M=4 W=1", "distrifusion 2 W=1",
    ]  # fmt: skip
    assert [one.name for one in found.configurations if one.prompts == 500] == [
        "pipefusion 2 M=2 W=1", "pipefusion 2 M=8 W=1", "pipefusion 2 M=4 W=2", "pipefusion 2 M=4 W=4",
        "ulysses 2", "ring 2", "tensor 2",
    ]  # fmt: skip
    assert dict(by_name["pipefusion 2 M=4 W=2"].layout) == dict(pipefusion=2, patches=4, warmup_steps=2)
    assert dict(by_name["ulysses 2"].layout) == dict(ulysses=2)
    seeds = {one.first_seed for one in found.configurations if one.kind == "reseeded"}
    assert len(seeds) == 3 and min(seeds) >= 2000


def test_shards_are_contiguous_and_all():
    found = plan.standard(2000, 500)
    assert found.shards == 8
    numbers = [number for shard in range(8) for number in found.range_of(shard)]
    assert numbers == list(range(2000))
    few = found.configurations[-1]
    assert [plan.Plan.in_shard(found, few, shard) for shard in range(8)] == [True] * 2 + [False] * 6


def test_configurations_of_one_layout_share_a_server():
    ways = {one.serving for one in plan.standard(2000, 500).configurations}
    assert len(ways) == 10  # serial, distrifusion, pipefusion of 5 kinds, ulysses, ring, tensor


def test_a_plan_survives_its_file(tmp_path):
    found = plan.standard(100, 50, shard=25)
    (tmp_path / "plan.json").write_text(json.dumps(plan.as_json(found)))
    assert plan.read(tmp_path / "plan.json") == found


def refusal(tmp_path, change):
    held = plan.as_json(plan.standard(100, 50, shard=25))
    change(held)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(held))
    with pytest.raises(errors.InputError) as raised:
        plan.read(path)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value).removeprefix(f"{path}: ")


def test_wrong_plans_are_named(tmp_path):
    def first(**fields):
        return lambda held: held["configurations"][0].update(fields)

    def last(**fields):
        return lambda held: held["configurations"][-1].update(fields)

    assert "'serial', not a baseline" in refusal(tmp_path, first(kind="method"))
    assert "baseline must have all prompts" in refusal(tmp_path, first(prompts=50))
    assert "tensor 2: prompts: 30 is not a whole number of shards" in refusal(tmp_path, last(prompts=30))
    assert "tensor 2: prompts: 3 are too few" in refusal(tmp_path, last(prompts=3))
    assert "kind 'fast' is none of" in refusal(tmp_path, last(kind="fast"))
    assert "steps: 0 is not positive" in refusal(tmp_path, last(steps=0))
    assert "two configurations have one name" in refusal(tmp_path, last(name="serial"))
    assert "unexpected keyword" in refusal(tmp_path, last(color="red"))
    assert "'configurations'" in refusal(tmp_path, lambda held: held.pop("configurations"))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(errors.InputError, match="plan.json: is no plan: JSONDecodeError"):
        plan.read(tmp_path / "plan.json")
    with pytest.raises(errors.InputError, match="absent.json: is no plan"):
        plan.read(tmp_path / "absent.json")


def test_folders_of_names_are_plain():
    assert plan.folder_of("serial, 12 steps") == "serial-12-steps"
    assert plan.folder_of("pipefusion 2 M=4 W=1") == "pipefusion-2-M-4-W-1"
    assert dataclasses.replace(plan.standard(50, 50).configurations[0]).prompts == 50
