"""What was measured, beside what was predicted: rows, and tables in Markdown."""

import dataclasses

from .layout import Layout
from .peers import beside_peers
from .plan import IMAGE_STEPS

METHODS = ("pipefusion", "distrifusion", "ulysses", "ring", "tensor", "guidance")


def method_of(layout: Layout) -> str:
    """ "guidance x pipefusion": what has more than one rank, in words."""
    names = [name for name in reversed(METHODS) if getattr(layout, name) > 1]
    return " x ".join(names) or "one GPU"


@dataclasses.dataclass
class Best:
    """Of one GPU at a size: milliseconds of a step and of an image."""

    step_ms: float
    image_ms: float


def image_ms(phases: dict, layout: Layout, steps: int) -> tuple:
    """Without text and decoding, and whether that was measured; None where a phase is missing."""
    fresh, stale = phases.get("synchronous"), phases.get("stale")
    last = stale if layout.is_stale else fresh
    if last and last.get("image_ms"):
        return last["image_ms"], True
    if not fresh or not last:
        return None, False
    warm_up = layout.warmup_steps if layout.is_stale else 0
    return warm_up * fresh["ms"] + (steps - warm_up) * last["ms"], False


def _row(record: dict, models: dict) -> dict:
    layout = Layout.parse(record["layout"])
    phases = {row["phase"]: row for row in record["report"]["rows"]}
    last = phases.get("stale") or phases["synchronous"]
    steps = record["report"].get("image_steps") or IMAGE_STEPS
    total_ms, whole = image_ms(phases, layout, steps)
    row = {key: record[key] for key in ("case", "layout", "gpus", "size_px", "p2p", "status")}
    row |= {"method": method_of(layout), "step_ms": last["ms"], "image_ms": total_ms, "image_measured": whole}
    row |= {"image_steps": steps, "exact": "psnr_db" in last and last["psnr_db"] is None}
    row |= {"machine": record["report"]["machine"]["device"]}
    row |= {key: last.get(key) for key in ("sent_mb", "peak_gb", "parameter_gb", "psnr_db")}
    row["synchronous_ms"] = phases.get("synchronous", {}).get("ms")
    row["peak_gb_of_ranks"] = [rank["peak_bytes"] / 1e9 for rank in last["ranks"]]
    model = models.get(record["p2p"])
    if model:
        row["predicted_ms"] = model.step_ms(layout, record["size_px"], layout.is_stale)
        row["predicted_image_ms"] = model.image_ms(layout, record["size_px"], steps)
        row["predicted_mb"] = model.sent_mb(layout, record["size_px"])
    return row


def best_of_one_gpu(rows: list, parts: dict) -> dict:
    """By machine and size: of the layout "serial" and of patchflow-bench step, whichever is faster."""
    best = {}
    for row in rows:
        if row["layout"] == "serial":
            found = Best(row["step_ms"], row["image_ms"])
            key = (row["machine"], row["size_px"])
            best[key] = min(best.get(key, found), found, key=lambda each: each.step_ms)
    for row in parts.get("step", {}).get("rows", []):
        key = (parts["step"]["machine"]["device"], row["size_px"])
        ms = row.get("graph_ms") or row["eager_ms"]
        if key not in best or ms < best[key].step_ms:
            best[key] = Best(ms, ms * IMAGE_STEPS)
    return best


def rows_of(records: list, models: dict) -> list:
    """One for each layout that was measured, by size, link and time of an image; beside what the model says that
    `models` has for its link, P2P or not."""
    rows = [_row(record, models) for record in records if record["kind"] == "layout" and record["status"] == "ok"]
    parts = {record["kind"]: record["report"] for record in records if record["kind"] != "layout" and record["report"]}
    best = best_of_one_gpu(rows, parts)
    for row in rows:
        one = best.get((row["machine"], row["size_px"]))
        row["speedup"] = None
        if one and row["image_ms"]:
            row["speedup"] = one.image_ms / row["image_ms"]
        elif one:
            row["speedup_of_stale_steps"] = one.step_ms / row["step_ms"]
    return sorted(
        rows, key=lambda row: (row["size_px"], not row["p2p"], row["gpus"], row["image_ms"] or 1e12, row["step_ms"])
    )


def _number(value, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def _table(head: list, lines: list) -> str:
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def layouts_table(rows: list) -> str:
    head = ["px", "GPUs", "P2P", "layout", "ms a step", "predicted", "synchronous ms", "image s", "predicted"]
    head += ["x best one GPU", "MB sent a step", "predicted", "peak GB", "weights GB", "PSNR dB"]
    lines = []
    for row in rows:
        about = "" if row["image_measured"] else "~"
        image_s = about + _number(row["image_ms"] / 1e3, 3) if row["image_ms"] else "-"
        predicted_image_ms = row.get("predicted_image_ms")
        cells = [str(row["size_px"]), str(row["gpus"]), "on" if row["p2p"] else "off", row["layout"]]
        cells += [
            _number(row["step_ms"], 2),
            _number(row.get("predicted_ms"), 2),
            _number(row["synchronous_ms"], 2),
            image_s,
        ]
        cells += [_number(predicted_image_ms / 1e3 if predicted_image_ms else None, 3)]
        if row["speedup"] is None and "speedup_of_stale_steps" in row:
            cells.append(_number(row["speedup_of_stale_steps"], 2) + " (stale steps)")
        else:
            cells.append(_number(row["speedup"], 2))
        cells += [_number(row["sent_mb"], 2), _number(row.get("predicted_mb"), 2), _number(row["peak_gb"], 2)]
        cells += [_number(row["parameter_gb"], 3), "exact" if row["exact"] else _number(row["psnr_db"], 1)]
        lines.append(cells)
    return _table(head, lines)


def peers_table(lines: list) -> str:
    head = ["px", "GPUs", "layout", "peer", "its ms a step", "ours", "of its"]
    keys = ("size_px", "gpus", "layout", "peer", "peer_ms", "ours_ms", "of_peer")
    return _table(head, [[_number(line[key], 2) for key in keys] for line in lines])


def part_table(report: dict) -> str:
    """Of any program's report: its scalars, or those of its rows."""
    rows = report.get("rows") or [report]
    scalars = [{key: value for key, value in row.items() if isinstance(value, (int, float, str, bool))} for row in rows]
    head = list(dict.fromkeys(key for row in scalars for key in row))
    if len(head) > 12:  # Rates say what times of single kernels do.
        head = [key for key in head if not key.endswith("_ms")]
    return _table(head, [[_number(row.get(key), 2) for key in head] for row in scalars])


def markdown(records: list, rows: list, pending: int, source: str) -> str:
    machines = sorted(
        {_machine(record["report"]) for record in records if record["report"] and "machine" in record["report"]}
    )
    parts = [f"# {'; '.join(machines) or 'Results'}"]
    if len({row["machine"] for row in rows}) > 1:
        parts.append("Results of several kinds of machine: compare rows of one only.")
    if pending:
        parts.append(f"{pending} cases are still to be measured.")
    if rows:
        parts += [f"## Layouts\n\nPredictions by bench/model.py. {source}", layouts_table(rows)]
        steps = " or ".join(sorted({str(row["image_steps"]) for row in rows}))
        parts.append(
            f"An image has {steps} steps, without text and decoding; ~: summed from steps. Memory: the rank with most."
        )
    peers = beside_peers(records, rows)
    if peers:
        about = "Our image is shared among its steps, synchronous ones included, as xDiT's is."
        parts += [f"## Beside peers\n\n{about}", peers_table(peers)]
    for record in records:
        if record["kind"] != "layout" and record["report"]:
            parts += [f"## {record['case']}", part_table(record["report"])]
    failed = [record for record in records if record["status"] != "ok"]
    if failed:
        lines = [
            [record["case"], record["status"], record["error"].replace("\n", " ").replace("|", "/")]
            for record in failed
        ]
        parts += ["## Not measured", _table(["case", "status", "why"], lines)]
    return "\n\n".join(parts) + "\n"


def _machine(report: dict) -> str:
    machine = report["machine"]
    if not isinstance(machine, dict):
        return str(machine)
    device = machine["device"] if machine["device"] != "cpu" else machine["processor"]
    return f"{machine['gpus']} x {device}, LibTorch {machine['libtorch']}" if machine["device"] != "cpu" else device
