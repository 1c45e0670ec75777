"""What stock diffusers and xDiT took, beside what the same layout took here."""


TIMES = {"step_ms": "", "eager_ms": "eager", "compiled_ms": "compiled"}


def our_step_ms(row: dict) -> float:
    """As a peer's image is shared among its steps: the synchronous ones of stale methods included."""
    return row["image_ms"] / row["image_steps"] if row["image_ms"] else row["step_ms"]


def beside_peers(records: list, rows: list) -> list:
    """One for each time of a peer, in the order of ours: machine, size and layout have to be the same, over the direct
    link. Rows are those of table.rows_of. A peer's row that names no layout is of one GPU."""
    found = {}
    reports = [each["report"] for each in records if each["kind"].startswith("peer-") and each["report"]]
    for report in reports:
        for row in report["rows"]:
            key = (report["machine"], row["size_px"], row.get("layout", "serial"))
            times = {(report["peer"], kind): row[ms] for ms, kind in TIMES.items() if row.get(ms)}
            found.setdefault(key, {}).update(times)
    lines = []
    for row in rows:
        if row["p2p"] or row["gpus"] == 1:
            times = found.get((row["machine"], row["size_px"], row["layout"]), {})
            ours = our_step_ms(row)
            line = {key: row[key] for key in ("size_px", "gpus", "layout")} | {"ours_ms": ours}
            lines += [
                line | {"peer": " ".join(filter(None, name)), "peer_ms": ms, "of_peer": ours / ms}
                for name, ms in times.items()
            ]
    return lines
