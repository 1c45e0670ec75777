#!/usr/bin/env python3
"""Latency and goodput against load, from the JSON of `patchflow load` with several rates or concurrencies.

    bench/load/plot.py --out FILE.svg [NAME=]REPORT.json...
"""

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "patchflow"  # The same file for the same reports.

from matplotlib import pyplot  # noqa: E402

QUANTILES = {"p50": "-", "p95": "--", "p99": ":"}


def load_of(row: dict) -> float:
    return row["rate_hz"] if row["mode"] == "open" else row["concurrency"]


def points(report: dict, quantile: str) -> tuple[list, list]:
    """Load, and the seconds that successful requests took."""
    rows = [row for row in report["rows"] if "OK" in row["outcomes"]]
    return [load_of(row) for row in rows], [row["outcomes"]["OK"]["total_s"][quantile] for row in rows]


def draw(reports: dict[str, dict]):
    figure, (latency, rates) = pyplot.subplots(2, 1, figsize=(7, 7), sharex=True, layout="constrained")
    for i, (name, report) in enumerate(reports.items()):
        for quantile, style in QUANTILES.items():
            latency.plot(*points(report, quantile), style, color=f"C{i}", marker=".", label=f"{name}, {quantile}")
        loads = [load_of(row) for row in report["rows"]]
        rates.plot(loads, [row["throughput_hz"] for row in report["rows"]], color=f"C{i}", marker=".", label=f"{name}: succeeded")
        within = f"{name}: within {report['limit_s']:g} s"
        rates.plot(loads, [row["goodput_hz"] for row in report["rows"]], "--", color=f"C{i}", marker=".", label=within)
    latency.set_yscale("log")
    latency.set_ylabel("seconds until the last byte")
    rates.set_ylabel("requests a second")
    modes = {row["mode"] for report in reports.values() for row in report["rows"]}
    rates.set_xlabel(" / ".join({"open": "requests arriving a second", "closed": "clients"}[mode] for mode in sorted(modes)))
    for axes in (latency, rates):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("reports", nargs="+", metavar="[NAME=]REPORT.json")
    arguments = parser.parse_args()
    reports = {}
    for argument in arguments.reports:
        name, _, path = argument.rpartition("=")
        path = pathlib.Path(path)
        reports[name or path.stem] = json.loads(path.read_text())
    if not any("OK" in row["outcomes"] for report in reports.values() for row in report["rows"]):
        parser.error("the reports hold nothing to draw")
    draw(reports).savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
