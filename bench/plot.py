#!/usr/bin/env python3
"""Latency and memory against image size, from the JSON of `patchflow-bench step`, of bench/run (summary.json) and of
bench/peers/, as SVG with logarithmic axes. Needs nothing but Python.

    bench/plot.py --out FILE.svg [--memory] [--gpus N] [--slow-link] [--match REGEX] [NAME=]REPORT.json...

A report draws a line for each kind of time it has (or of memory, with --memory); NAME replaces the file's own name in
the legend; --match keeps the lines whose legend does. Of bench/run's layouts each method draws its fastest, by the
milliseconds of a step when an image's time is shared among its steps; --gpus leaves other numbers of GPUs out,
--slow-link takes those measured without P2P. Its peers are drawn beside; those of their rows that name a layout draw a
line for each.
"""

import argparse
import json
import math
import pathlib
import re

WIDTH, HEIGHT, MARGIN, LEGEND = 820, 440, 64, 320
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"]
DASHES = ["none", "6 3", "2 2"]  # Once all colours have been used.
TIMES = {"graph_ms": "CUDA graph", "compiled_ms": "torch.compile", "eager_ms": "eager", "step_ms": ""}
MEMORY = {"peak_gb": "peak"}


def lines(name: str, report: dict, kinds: dict) -> dict:
    """Points (size_px, value) by legend."""
    found = {}
    for row in report["rows"]:
        for key, kind in kinds.items():
            if row.get(key):
                legend = ", ".join(part for part in (name, row.get("layout"), kind) if part)
                found.setdefault(legend, []).append((row["size_px"], row[key]))
    return {legend: sorted(points) for legend, points in found.items()}


def step_of(case: dict) -> float:
    """Milliseconds of a step, the synchronous ones of stale methods included."""
    return case["image_ms"] / case["image_steps"] if case["image_ms"] else case["step_ms"]


def suite_lines(name: str, summary: dict, memory: bool, gpus: int, p2p: bool) -> dict:
    """Points by method: of its fastest layout at each size."""
    fastest = {}
    for case in summary["cases"]:
        if case["gpus"] not in (1, gpus or case["gpus"]) or (case["p2p"] != p2p and case["gpus"] > 1):
            continue
        number = "" if case["gpus"] == 1 else f", {case['gpus']} GPUs"
        key = (f"{name}, {case['method']}{number}", case["size_px"])
        if key not in fastest or step_of(case) < step_of(fastest[key]):
            fastest[key] = case
    found = {}
    for (legend, size_px), case in sorted(fastest.items(), key=lambda item: item[0]):
        value = case["peak_gb"] if memory else step_of(case)
        if value:
            found.setdefault(legend, []).append((size_px, value))
    for peer in summary.get("peers", []):
        rows = [row for row in peer["rows"] if row.get("gpus", 1) in (1, gpus or row.get("gpus"))]
        found |= lines(peer["peer"], {"rows": rows}, MEMORY if memory else TIMES)
    return found


class LogAxis:
    """Values to pixels; `low` and `high` are where the least and the greatest value go."""

    def __init__(self, values, low: float, high: float):
        self.least, self.greatest = min(values), max(values)
        if self.least == self.greatest:
            self.least, self.greatest = self.least / 2, self.greatest * 2
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        part = math.log(value / self.least) / math.log(self.greatest / self.least)
        return self.low + part * (self.high - self.low)

    def decades(self) -> list:
        first, last = math.floor(math.log10(self.least)), math.ceil(math.log10(self.greatest))
        ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
        return [tick for tick in ticks if self.least <= tick <= self.greatest]


def text(x: float, y: float, what: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{what}</text>'


def draw(series: dict, unit: str) -> str:
    sizes = sorted({x for points in series.values() for x, _ in points})
    right = WIDTH - LEGEND
    height = max(HEIGHT, MARGIN + 18 * len(series))
    x_of = LogAxis(sizes, MARGIN + 24, right - 16)
    y_of = LogAxis([y for points in series.values() for _, y in points], HEIGHT - MARGIN, MARGIN / 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for size in sizes:
        parts.append(text(x_of(size), HEIGHT - MARGIN + 20, f"{size} px"))
    for tick in y_of.decades():
        parts.append(f'<path d="M{MARGIN + 8} {y_of(tick):.1f}H{right}" stroke="#ddd"/>')
        parts.append(text(MARGIN + 2, y_of(tick) + 4, f"{tick:g} {unit}", "end"))
    for i, (name, points) in enumerate(series.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = MARGIN / 2 + 18 * i
        parts.append(f'<path d="M{right + 16} {y}h18" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(text(right + 40, y + 4, name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--slow-link", action="store_true")
    parser.add_argument("--match", default="", metavar="REGEX")
    parser.add_argument("reports", nargs="+", metavar="[NAME=]REPORT.json")
    arguments = parser.parse_args()
    series = {}
    for argument in arguments.reports:
        name, _, path = ("", "", argument) if pathlib.Path(argument).exists() else argument.partition("=")
        path = pathlib.Path(path)
        report = json.loads(path.read_text())
        if "cases" in report:
            drawn = suite_lines(name or path.stem, report, arguments.memory, arguments.gpus, not arguments.slow_link)
        else:
            drawn = lines(name or path.stem, report, MEMORY if arguments.memory else TIMES)
        series |= {legend: points for legend, points in drawn.items() if re.search(arguments.match, legend)}
    if not series:
        parser.error("the reports hold nothing to draw")
    arguments.out.write_text(draw(series, "GB" if arguments.memory else "ms"))


if __name__ == "__main__":
    main()
