"""What a machine can do, as measured by patchflow-bench: rates of products and of attention, times of what ranks send
each other. Curves run through the measured points, straight between them in logarithms, and stay level beyond them."""

import dataclasses
import json
import math
import pathlib

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


class Curve:
    """Positive values of a positive variable."""

    def __init__(self, points: dict):
        if not points or min(points) <= 0 or min(points.values()) <= 0:
            raise ValueError(f"a curve needs positive points, not {points}")
        self.points = sorted(points.items())

    def __call__(self, x: float) -> float:
        before = [point for point in self.points if point[0] <= x]
        after = [point for point in self.points if point[0] > x]
        if not before or not after:
            return (before[-1] if before else after[0])[1]
        (x0, y0), (x1, y1) = before[-1], after[0]
        part = math.log(x / x0) / math.log(x1 / x0)
        return math.exp(math.log(y0) + part * math.log(y1 / y0))


class Link:
    """Milliseconds of an operation in which a rank sends so many bytes: a curve of bandwidth over a fixed start."""

    def __init__(self, start_ms: float, gb_s: Curve):
        self.start_ms, self.gb_s = start_ms, gb_s

    def ms(self, sent_bytes: float) -> float:
        return self.start_ms + sent_bytes / self.gb_s(sent_bytes) / 1e6 if sent_bytes > 0 else 0.0


def level(value: float) -> Curve:
    return Curve({1.0: value})


@dataclasses.dataclass
class Roofs:
    """TFLOP/s by rows (products) and by the lesser of queries and keys (attention); links by operation."""

    gemm: Curve
    attention: Curve
    cross_attention: Curve
    links: dict
    memory_tb_s: float = 3.0
    source: str = ""


OPERATIONS = ("all-reduce", "all-gather", "all-to-all", "hop")
_HOP = "to the next, from the one before"


def sent_bytes(operation: str, held_bytes: float, ranks: int) -> float:
    """By one rank that holds so much, as parallel/counting_communicator.h counts it."""
    share = {
        "all-reduce": 2 * (ranks - 1) / ranks,
        "all-gather": ranks - 1,
        "all-to-all": (ranks - 1) / ranks,
        "hop": 1,
    }
    return held_bytes * share[operation]


def links_of(report: dict) -> dict:
    """From `patchflow-bench link`, whose first words are "N ranks"."""
    ranks = int(report["what"].split()[0])
    links = {}
    for operation in OPERATIONS:
        name = _HOP if operation == "hop" else operation
        rows = sorted((row["size_mb"] * 1e6, row[f"{name} us"] / 1e3) for row in report["rows"])
        start_ms = rows[0][1]
        bandwidth = {}
        for held, ms in rows[1:]:
            sent = sent_bytes(operation, held, ranks)
            bandwidth[sent] = sent / max(ms - start_ms, ms / 100) / 1e6
        links[operation] = Link(start_ms, Curve(bandwidth))
    return links


def gemm_of(report: dict) -> Curve:
    """Of the products of a block, from `patchflow-bench gemm`."""
    blocks = [row for row in report["rows"] if row["product"].startswith("block")]
    return Curve({row["rows"]: row.get("chosen", row["fastest"]) for row in blocks})


def attention_of(report: dict, cross: bool) -> Curve:
    """From `patchflow-bench attention`: by what the engine chooses or, in reports without that, by the fastest."""
    points = {}
    for row in report["rows"]:
        if bool(row.get("biased") or row["keys"] < 512) != cross:
            continue
        rates = [row["engine"]] if "engine" in row else _numbers(row)
        least = row["queries"] if cross else min(row["queries"], row["keys"])
        points[least] = max(points.get(least, 0), *rates)
    return Curve(points)


def _numbers(row: dict) -> list:
    named = {"batch", "queries", "keys", "ratio", "chosen_ratio"}
    return [value for key, value in row.items() if key not in named and isinstance(value, (int, float))]


# Of a link that was not measured, in milliseconds and GB/s: NVLink as of an H200, and a host's memory where GPUs do not
# reach each other's.
ASSUMED_LINK = {True: (0.045, 300.0), False: (0.06, 12.0)}


def measured(reports: dict, p2p: bool = True) -> Roofs:
    """From reports by the name of their command; what is missing comes from the results that are kept, of an H200, and
    for links from what is assumed."""
    known, sources = {}, []
    for name in ("gemm", "attention"):
        known[name] = reports.get(name) or json.loads((RESULTS / f"{name}_h200.json").read_text())
        sources.append(f"{name}: {'measured here' if name in reports else 'kept of an H200'}")
    if "link" in reports:
        links = links_of(reports["link"])
    else:
        start_ms, gb_s = ASSUMED_LINK[p2p]
        links = {operation: Link(start_ms, level(gb_s)) for operation in OPERATIONS}
    name = "link" if p2p else "link without P2P"
    sources.append(f"{name}: {'measured here' if 'link' in reports else 'assumed'}")
    try:
        cross = attention_of(known["attention"], cross=True)
    except ValueError:
        cross = level(200.0)
    own = attention_of(known["attention"], cross=False)
    return Roofs(gemm_of(known["gemm"]), own, cross, links, source="; ".join(sources))
