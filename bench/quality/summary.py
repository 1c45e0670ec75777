"""The figures of a comparison: each configuration against serial on the same prompts and seeds."""

import dataclasses

import numpy as np

from . import plan, scores, shards, significance
from .errors import InputError
from .features import Features, concatenated

FID_LIMIT = 0.03  # What a method may cost: a share of serial's FID ...
ACCURACY_LIMIT = 1.0  # ... and points of accuracy.


@dataclasses.dataclass
class Row:
    name: str
    kind: str
    steps: int
    prompts: int
    seconds: float  # Median of an image, alone on its group; NaN if not known.
    speedup: float
    scores: dict[str, float]  # fid, sfid, inception_score, precision, recall to the reference
    fid_to_serial: float | None = None
    fid_change: float | None = None  # A share of serial's FID.
    fid_interval: significance.Interval | None = None
    accuracy: float = 0.0  # Percent of prompts whose things are shown.
    accuracy_change: float | None = None  # Points.
    accuracy_interval: significance.Interval | None = None
    mcnemar: significance.McNemar | None = None
    verdicts: dict[str, float] = dataclasses.field(default_factory=dict)
    pairs: dict[str, float] = dataclasses.field(default_factory=dict)  # Means; psnr_db_low: lowest.
    equal_images: float | None = None  # Share of files with serial's very bytes.

    @property
    def within(self) -> bool | None:
        """Whether FID and accuracy stay inside the limits; None for serial itself."""
        if self.fid_change is None:
            return None
        return self.fid_change <= FID_LIMIT and self.accuracy_change >= -ACCURACY_LIMIT


@dataclasses.dataclass
class Band:
    """What other seeds do to serial, of so many prompts."""

    prompts: int
    fid_change: tuple[float, float]  # Lowest and highest.
    accuracy_change: tuple[float, float]


def gather(work) -> tuple[dict[str, shards.Shard], Features]:
    """By name, what there is of each configuration from the first shard on; and the reference.

    Shards after the first that is missing are left out. InputError if the baseline has none.
    """
    found, most = {}, 0
    for one in work.plan.configurations:
        parts = []
        for shard in range(work.plan.shards):
            path = work.result(one.name, shard)
            if not path.exists():
                break
            parts.append(shards.load(path))
        if parts:
            found[one.name] = shards.joined(parts)
            most = max(most, len(parts))
    base = work.plan.configurations[0].name
    if base not in found:
        raise InputError(f"{work.result(base, 0)}: is missing: nothing to compare with")
    reference = [shards.load_features(work.result("reference", shard)) for shard in range(most)]
    return found, concatenated(reference)


def _cut(shard: shards.Shard, count: int) -> shards.Shard:
    def first(values):
        return {name: value[:count] for name, value in values.items()}

    return shards.Shard(
        shard.features.rows(slice(count)),
        first(shard.verdicts),
        first(shard.pairs),
        first(shard.stage_s),
        shard.digest[:count],
    )


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


class Summary:
    """Computes rows; keeps serial's resampled FIDs for each number of prompts."""

    def __init__(self, found: dict[str, shards.Shard], reference: Features, what: plan.Plan, resamples: int):
        self._found, self._reference, self._plan = found, reference, what
        self._resamples = resamples
        self._base = what.configurations[0].name
        self._kept: dict[int, tuple] = {}

    def _serial(self, count: int):
        """(resampler, serial's shard, its FID, its resampled FIDs) of the first prompts."""
        if count not in self._kept:
            resampler = significance.ResampledFid(self._reference.pool[:count], self._resamples)
            own = _cut(self._found[self._base], count)
            pool = own.features.pool
            self._kept[count] = (resampler, own, resampler.whole(pool), resampler(pool))
        return self._kept[count]

    def row(self, one: plan.Configuration) -> Row:
        own = self._found[one.name]
        count = min(len(own.features), len(self._found[self._base].features))
        own = _cut(own, count)
        _, serial, _, _ = self._serial(count)
        seconds, its = _median(own.seconds()), _median(serial.seconds())
        found = Row(one.name, one.kind, one.steps, count, seconds, its / seconds, self._scores(own, count))
        found.verdicts = {k: 100 * float(np.nanmean(v)) for k, v in own.verdicts.items()}
        found.accuracy = found.verdicts["shown"]
        if one.kind != "baseline":
            self._compare(found, own, count)
        return found

    def _scores(self, own: shards.Shard, count: int) -> dict[str, float]:
        reference = self._reference.rows(slice(count))
        stats = {
            name: [scores.statistics(getattr(f, name)) for f in (reference, own.features)]
            for name in ("pool", "spatial")
        }
        precision, recall = scores.precision_recall(reference.pool, own.features.pool)
        return dict(
            fid=scores.frechet_distance(*stats["pool"]),
            sfid=scores.frechet_distance(*stats["spatial"]),
            inception_score=scores.inception_score(own.features.logits),
            precision=precision,
            recall=recall,
        )

    def _compare(self, found: Row, own: shards.Shard, count: int) -> None:
        resampler, serial, fid, resampled = self._serial(count)
        found.fid_change = resampler.whole(own.features.pool) / fid - 1
        # Resamples repeat images, which adds to their FIDs; in the difference that cancels.
        apart = resampler(own.features.pool) - resampled
        found.fid_interval = significance.interval(apart / fid)
        found.fid_to_serial = scores.frechet_distance(
            *(scores.statistics(shard.features.pool) for shard in (serial, own))
        )
        shown, its = own.verdicts["shown"], serial.verdicts["shown"]
        found.accuracy_change = 100 * float(shown.mean() - its.mean())
        found.accuracy_interval = significance.accuracy_interval(its, shown, resampler.counts(count))
        found.mcnemar = significance.mcnemar(its, shown)
        found.pairs = {name: float(value.mean()) for name, value in own.pairs.items()}
        found.pairs["psnr_db_low"] = float(own.pairs["psnr_db"].min())
        found.equal_images = float((own.digest == serial.digest).mean())

    def bands(self, rows: list[Row]) -> list[Band]:
        """One for each number of prompts that rows have."""
        seeds = [one for one in self._plan.configurations if one.kind == "reseeded"]
        made = []
        for count in sorted({row.prompts for row in rows}, reverse=True):
            resampler, serial, fid, _ = self._serial(count)
            fids, points = [], []
            for one in seeds:
                if one.name not in self._found or len(self._found[one.name].features) < count:
                    continue
                own = _cut(self._found[one.name], count)
                fids.append(resampler.whole(own.features.pool) / fid - 1)
                change = own.verdicts["shown"].mean() - serial.verdicts["shown"].mean()
                points.append(100 * float(change))
            if fids:
                made.append(Band(count, (min(fids), max(fids)), (min(points), max(points))))
        return made


def summarise(work, resamples: int) -> tuple[list[Row], list[Band]]:
    found, reference = gather(work)
    summary = Summary(found, reference, work.plan, resamples)
    rows = [summary.row(one) for one in work.plan.configurations if one.name in found]
    return rows, summary.bands(rows)
