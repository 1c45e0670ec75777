"""table.md and summary.json of a folder of results."""

import json
import pathlib

from model import Model, roofs_of_folder

from .results import Results, write_whole
from .table import markdown, rows_of


def records_in(folder: pathlib.Path) -> list:
    """In the order of their names."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.name != "summary.json"]
    return [record for record in records if isinstance(record, dict) and "case" in record]


def write_summary(results: Results, roofs_folder: pathlib.Path, left: int) -> str:
    """What the table says. Predictions are for GPUs: threads that share a processor have none."""
    records = records_in(results.folder)
    on_gpus = all(record["report"]["machine"]["device"] != "cpu" for record in records if _has_machine(record))
    roofs = {p2p: roofs_of_folder(roofs_folder, p2p) for p2p in (True, False)}
    rows = rows_of(records, {p2p: Model(roofs[p2p]) for p2p in roofs} if on_gpus else {})
    source = "; ".join(dict.fromkeys("; ".join(each.source for each in roofs.values()).split("; ")))
    text = markdown(records, rows, left, f"Rates: {source}." if on_gpus else "None for CPUs.")
    summary = {
        "cases": rows,
        "roofs": source,
        "failed": [each["case"] for each in records if each["status"] != "ok"],
    }
    summary["peers"] = [each["report"] for each in records if each["kind"].startswith("peer-") and each["report"]]
    write_whole(results.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_whole(results.folder / "table.md", text)
    return text


def _has_machine(record: dict) -> bool:
    return bool(record["report"]) and isinstance(record["report"].get("machine"), dict)
