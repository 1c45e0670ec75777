"""What a comparison draws: configurations of the server, on the same prompts and seeds."""

import dataclasses
import json
import pathlib

from .errors import InputError
from .scores import NEIGHBOUR

BASELINE = "serial"
RESEEDED_BY = 1_000_000  # Far beyond the number of prompts, so that no seed comes twice.
KINDS = ("baseline", "method", "fewer steps", "reseeded")


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Of the first `prompts` prompts, number i with the seed first_seed + i."""

    name: str
    prompts: int
    steps: int
    kind: str = "method"
    ranks: int = 1
    layout: tuple[tuple[str, int], ...] = ()  # As in the server's configuration.
    first_seed: int = 0

    @property
    def serving(self) -> tuple:
        """Equal for configurations that the same server can draw."""
        return (self.ranks, self.layout)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Configurations, the baseline first, and what they have in common."""

    configurations: tuple[Configuration, ...]
    guidance: float = 4.5
    shard: int = 250  # Prompts that are drawn, scored and deleted together.
    size: str = ""  # "WxH" px; empty: the model's own.

    @property
    def prompts(self) -> int:
        return max(configuration.prompts for configuration in self.configurations)

    @property
    def shards(self) -> int:
        return -(-self.prompts // self.shard)

    def range_of(self, shard: int) -> range:
        """Numbers of the prompts of a shard; as the client's --part shard+1/shards of --first."""
        return range(
            shard * self.prompts // self.shards, (shard + 1) * self.prompts // self.shards
        )

    def in_shard(self, configuration: Configuration, shard: int) -> bool:
        return self.range_of(shard).stop <= configuration.prompts


def standard(prompts: int, few: int, steps: int = 20, ranks: int = 2, shard: int = 250) -> Plan:
    """Serial, its reseedings, fewer steps, and every method on `ranks` ranks.

    The main ones on `prompts` prompts, the sweep of PipeFusion's M and W and the synchronous methods
    on `few` of them.
    """

    def method(count, **layout):
        name = " ".join([next(iter(layout)), str(ranks)])
        if "patches" in layout:
            name += f" M={layout['patches']} W={layout['warmup_steps']}"
        elif "warmup_steps" in layout:
            name += f" W={layout['warmup_steps']}"
        return Configuration(name, count, steps, "method", ranks, tuple(layout.items()))

    def pipefusion(count, m, w):
        return method(count, pipefusion=ranks, patches=m, warmup_steps=w)

    fewer = sorted({steps * 3 // 4, steps * 3 // 5, steps // 2}, reverse=True)
    found = [Configuration(BASELINE, prompts, steps, "baseline")]
    found += [Configuration(f"serial, {n} steps", prompts, n, "fewer steps") for n in fewer]
    found += [
        Configuration(f"serial, reseeded {k}", prompts, steps, "reseeded", first_seed=k * RESEEDED_BY)
        for k in (1, 2, 3)
    ]
    found += [pipefusion(prompts, 2 * ranks, 1), method(prompts, distrifusion=ranks, warmup_steps=1)]
    found += [pipefusion(few, m, 1) for m in (ranks, 4 * ranks)]
    found += [pipefusion(few, 2 * ranks, w) for w in (2, 4)]
    found += [method(few, **{name: ranks}) for name in ("ulysses", "ring", "tensor")]
    return checked(Plan(tuple(found), shard=min(shard, few)), "the standard plan")


def read(path: pathlib.Path) -> Plan:
    """A JSON file: {"guidance", "shard", "size", "configurations": [{"name", "prompts", "steps", "kind",
    "ranks", "layout": {}, "first_seed"}]}."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        made = []
        for entry in held.pop("configurations"):
            entry["layout"] = tuple(entry.get("layout", {}).items())
            made.append(Configuration(**entry))
        return checked(Plan(tuple(made), **held), str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no plan: {type(error).__name__}: {error}") from error


def as_json(plan: Plan) -> dict:
    held = dataclasses.asdict(plan)
    for entry in held["configurations"]:
        entry["layout"] = dict(entry["layout"])
    held["configurations"] = list(held["configurations"])
    return held


def checked(plan: Plan, where: str) -> Plan:
    """The plan, if a comparison can be made of it."""

    def need(good: bool, text: str):
        if not good:
            raise InputError(f"{where}: {text}")

    need(bool(plan.configurations), "has no configurations")
    first = plan.configurations[0]
    need(first.kind == "baseline", f"the first configuration is {first.name!r}, not a baseline")
    need(first.prompts == plan.prompts, "the baseline must have all prompts")
    need(plan.shard >= 1, f"shard: {plan.shard} is not positive")
    names = [folder_of(configuration.name) for configuration in plan.configurations]
    need(len(set(names)) == len(names), "two configurations have one name")
    edges = {0} | {plan.range_of(shard).stop for shard in range(plan.shards)}
    for one in plan.configurations:
        need(one.kind in KINDS, f"{one.name}: kind {one.kind!r} is none of {KINDS}")
        need(one.steps >= 1, f"{one.name}: steps: {one.steps} is not positive")
        need(one.prompts > NEIGHBOUR, f"{one.name}: prompts: {one.prompts} are too few to be scored")
        need(
            one.prompts in edges,
            f"{one.name}: prompts: {one.prompts} is not a whole number of shards: {sorted(edges)[1:]}",
        )
    return plan


def folder_of(name: str) -> str:
    """The name as a folder's: letters, digits, '-' and '.'."""
    words = "".join(c if c.isalnum() or c == "." else " " for c in name)
    return "-".join(words.split())
