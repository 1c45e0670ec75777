"""A folder with a JSON file for each case that was measured."""

import json
import os
import pathlib

from .plan import Case


def write_whole(path: pathlib.Path, text: str) -> None:
    """At once, so that whoever is stopped leaves no half of a file."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)


class Results:
    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def path(self, case: Case) -> pathlib.Path:
        return self.folder / f"{case.slug}.json"

    def load(self, case: Case) -> dict | None:
        path = self.path(case)
        return json.loads(path.read_text()) if path.exists() else None

    def status(self, case: Case) -> str:
        """ "ok", "failed", "timeout", or "" if it is still to be measured."""
        record = self.load(case)
        return record["status"] if record else ""

    def save(self, case: Case, status: str, seconds: float, report: dict | None, error: str = "") -> None:
        record = {
            "case": case.slug,
            "kind": case.kind,
            "gpus": case.gpus,
            "size_px": case.size_px,
            "layout": case.layout,
            "p2p": case.p2p,
            "status": status,
            "error": error,
            "seconds": round(seconds, 2),
            "report": report,
        }
        write_whole(self.path(case), json.dumps(record, indent=1) + "\n")
