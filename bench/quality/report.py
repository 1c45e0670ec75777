"""A comparison as one HTML file that needs no network: table, plot, images side by side."""

import base64
import dataclasses
import html
import io
import json
import math
import pathlib

import numpy as np
from PIL import Image

from . import images, plan, summary

DIFFERENCE_GAIN = 4
SHOWN_PX = 192
HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Image quality</title><style>
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px}th,td{padding:.3em .6em;border-bottom:1px solid #ddd;
text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}th{vertical-align:bottom}
.scroll{overflow-x:auto}.no{color:#b00020}.yes{color:#10703a}.grey{color:#777}
.row{display:flex;gap:8px;overflow-x:auto;padding-bottom:8px}figure{margin:0;font-size:12px}
figure img{display:block;width:192px;margin-bottom:2px}figcaption{max-width:192px}</style>"""


def _number(value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return '<span class="grey">-</span>'
    return format(value, form)


def _change(value, interval, form: str, unit: str, scale: float = 1) -> str:
    if value is None:
        return _number(None, form)
    low, high = interval.low * scale, interval.high * scale
    return f"{value * scale:{form}}{unit} <span class=grey>[{low:{form}}, {high:{form}}]</span>"


COLUMNS = (
    ("configuration", lambda r: html.escape(r.name)),
    ("prompts", lambda r: str(r.prompts)),
    ("s / image", lambda r: _number(r.seconds, ".3f")),
    ("speed-up", lambda r: _number(r.speedup, ".2f")),
    ("FID", lambda r: _number(r.scores["fid"], ".4f")),
    ("FID change [95 %]", lambda r: _change(r.fid_change, r.fid_interval, "+.1f", " %", 100)),
    ("sFID", lambda r: _number(r.scores["sfid"], ".4f")),
    ("inception score", lambda r: _number(r.scores["inception_score"], ".2f")),
    ("precision", lambda r: _number(r.scores["precision"], ".3f")),
    ("recall", lambda r: _number(r.scores["recall"], ".3f")),
    ("accuracy %", lambda r: _number(r.accuracy, ".2f")),
    ("points [95 %]", lambda r: _change(r.accuracy_change, r.accuracy_interval, "+.2f", "")),
    ("lost / gained", lambda r: f"{r.mcnemar.lost} / {r.mcnemar.gained}" if r.mcnemar else _number(None, "")),
    ("McNemar p", lambda r: _number(r.mcnemar.p if r.mcnemar else None, ".3f")),
    ("PSNR dB", lambda r: _number(r.pairs.get("psnr_db"), ".1f")),
    ("lowest", lambda r: _number(r.pairs.get("psnr_db_low"), ".1f")),
    ("SSIM", lambda r: _number(r.pairs.get("ssim"), ".4f")),
    ("LPIPS", lambda r: _number(r.pairs.get("lpips"), ".4f")),
    ("FID to serial", lambda r: _number(r.fid_to_serial, ".4f")),
    ("same bytes %", lambda r: _number(None if r.equal_images is None else 100 * r.equal_images, ".1f")),
    ("within limits", lambda r: _verdict(r.within)),
)


def _verdict(within: bool | None) -> str:
    if within is None:
        return _number(None, "")
    return '<span class="yes">yes</span>' if within else '<span class="no">no</span>'


def table(rows: list[summary.Row]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(row)}</td>" for _, cell in COLUMNS) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def band_text(bands: list[summary.Band]) -> str:
    if not bands:
        return "<p>Serial was not reseeded, so there is no band of noise.</p>"
    lines = [
        f"of {band.prompts} prompts, FID {100 * band.fid_change[0]:+.1f} to {100 * band.fid_change[1]:+.1f} %"
        f" and accuracy {band.accuracy_change[0]:+.2f} to {band.accuracy_change[1]:+.2f} points"
        for band in bands
    ]
    return f"<p>Band of noise, what other seeds do to serial: {'; '.join(lines)}.</p>"


def plot(rows: list[summary.Row], bands: list[summary.Band]) -> str:
    """Quality against speed, as SVG: change of FID with its interval, and accuracy."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    drawn = [row for row in rows if math.isfinite(row.seconds)]
    if not drawn:
        return "<p>No timings are known, so nothing is plotted.</p>"
    marks = {"baseline": "*", "method": "o", "fewer steps": "s", "reseeded": "x"}
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for kind, mark in marks.items():
        some = [row for row in drawn if row.kind == kind]
        x = [row.seconds for row in some]
        change = [100 * (row.fid_change or 0) for row in some]
        reach = [
            [
                max(0.0, y - 100 * r.fid_interval.low) if r.fid_interval else 0,
                max(0.0, 100 * r.fid_interval.high - y) if r.fid_interval else 0,
            ]
            for r, y in zip(some, change)
        ]
        if some:
            bars = np.array(reach).T
            axes[0].errorbar(x, change, bars, fmt=mark, capsize=2, label=kind)
            axes[1].plot(x, [row.accuracy for row in some], mark, label=kind)
        for row, y in zip(some, change):
            if kind != "reseeded":
                label = dict(fontsize=7, xytext=(4, 4), textcoords="offset points")
                axes[0].annotate(row.name, (row.seconds, y), **label)
                axes[1].annotate(row.name, (row.seconds, row.accuracy), **label)
    if bands:
        low, high = (100 * edge for edge in bands[0].fid_change)
        axes[0].axhspan(min(low, 0), max(high, 0), alpha=0.12, color="grey")
    axes[0].axhline(100 * summary.FID_LIMIT, ls=":", color="grey")
    axes[0].set(ylabel="FID against serial's, % (bars: paired 95 %)", xlabel="seconds an image")
    axes[1].set(ylabel="prompts shown, %", xlabel="seconds an image")
    axes[1].legend()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _embedded(array: np.ndarray) -> str:
    data = io.BytesIO()
    picture = Image.fromarray(array)
    picture.thumbnail((2 * SHOWN_PX, 2 * SHOWN_PX))
    picture.save(data, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _figure(array: np.ndarray, caption: str) -> str:
    return f'<img alt="" src="{_embedded(array)}">{html.escape(caption)}'


def side_by_side(kept: pathlib.Path, configurations, captions: list[str]) -> str:
    """A row for each kept prompt: serial, then each configuration above its difference."""
    base = kept / plan.folder_of(configurations[0].name)
    parts = []
    for file in sorted(base.glob("*.png")) if base.is_dir() else []:
        number = int(file.stem)
        serial = images.read_image(file)
        figures = [f"<figure>{_figure(serial, configurations[0].name)}</figure>"]
        for one in configurations[1:]:
            path = kept / plan.folder_of(one.name) / file.name
            if one.kind == "reseeded" or not path.exists():
                continue
            picture = images.read_image(path)
            apart = np.abs(picture.astype(np.int16) - serial) * DIFFERENCE_GAIN
            difference = np.clip(apart, 0, 255).astype(np.uint8)
            figures.append(
                f"<figure>{_figure(picture, one.name)}{_figure(difference, 'difference')}</figure>"
            )
        title = html.escape(captions[number])
        parts.append(f'<h3>{number}: {title}</h3><div class="row">{"".join(figures)}</div>')
    return "".join(parts)


def _plain(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def machines_of(out: pathlib.Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted((out / "results").glob("machine-*.json"))]


def write(work, resamples: int) -> pathlib.Path:
    """Writes report.html and report.json; returns the former's path."""
    rows, bands = summary.summarise(work, resamples)
    machines = machines_of(work.out)
    held = dict(
        machines=machines,
        rows=[dataclasses.asdict(row) | dict(within=row.within) for row in rows],
        bands=[dataclasses.asdict(band) for band in bands],
    )
    (work.out / "report.json").write_text(json.dumps(_plain(held), indent=1) + "\n")
    where = "".join(
        f"<p>{html.escape(m['machine'])}, {m['gpus']} GPUs, {html.escape(m['dtype'])}, model"
        f" {html.escape(m['model'])}: <code>{html.escape(m['command'])}</code></p>"
        for m in machines
    )
    text = f"""{HEAD}<h1>Image quality</h1>{where}
<p>Every configuration draws the same prompts with the same seeds as serial. FID, sFID, precision and
recall are to perfect pictures of the prompts; accuracy is the share of prompts of which the checker
network sees every thing, with its colour, in its place. Intervals are 95 %, of resampled prompts, the
same ones for serial. Within limits: FID at most {100 * summary.FID_LIMIT:.0f} % above serial's and
accuracy at most {summary.ACCURACY_LIMIT:.0f} point below.</p>
{table(rows)}{band_text(bands)}<h2>Quality against speed</h2>{plot(rows, bands)}
<h2>Side by side</h2><p>The first prompts, not chosen. Differences to serial are shown
{DIFFERENCE_GAIN} times as strong as they are.</p>
{side_by_side(work.out / "kept", work.plan.configurations, [s.caption for s in work.scenes])}</html>
"""
    path = work.out / "report.html"
    path.write_text(text, encoding="utf-8")
    return path
