"""A shard: some prompts of one configuration, scored. What remains of it is a small .npz file."""

import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from . import features, images, networks, pairs, prompts
from .errors import InputError
from .features import Features

VERDICTS = ("shown", "exact", "sized", "background", "confidence")
STAGES = ("text_encode", "denoise", "vae_decode", "encode_image")
STAGE, VERDICT, PAIR = "stage_", "verdict_", "pair_"


@dataclasses.dataclass
class Shard:
    """Rows belong to prompts, in order."""

    features: Features
    verdicts: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]  # With the baseline's image; empty for the baseline.
    stage_s: dict[str, np.ndarray]
    digest: np.ndarray  # "U64": SHA-256 of each file

    def seconds(self) -> np.ndarray:
        """Of each image, without its time in the queue; NaN if not known."""
        known = [self.stage_s[name] for name in STAGES if name in self.stage_s]
        return sum(known) if known else np.full(len(self.features), np.nan)


class Numbered:
    """The images of a folder that have these numbers as names."""

    def __init__(self, path: pathlib.Path, numbers: range):
        self.path = path
        self.files = [path / f"{number:05d}.png" for number in numbers]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self):
        return map(images.read_image, self.files)


def score(source: Numbered, scenes: list, baseline: Numbered | None, stage_s, network, lpips=None) -> Shard:
    """Reads every image once (and the baseline's)."""
    judge = prompts.Judge(network.checker, scenes, network.device)
    found: list[Features] = []
    paired: list[dict] = []
    others = images.batches(baseline, features.BATCH) if baseline else None
    for batch in images.batches(source, features.BATCH):
        found.append(Features(**network(batch)))
        judge(batch)
        if others:
            other = next(others)
            pair = dict(psnr_db=pairs.psnr(other, batch), ssim=pairs.ssim(other, batch, network.device))
            if lpips:
                pair["lpips"] = lpips(other, batch)
            paired.append(pair)
    return Shard(
        features.concatenated(found),
        judge.verdicts(),
        {k: np.concatenate([pair[k] for pair in paired]) for k in paired[0]} if paired else {},
        {name: np.array(values) for name, values in stage_s.items()},
        np.array([hashlib.sha256(file.read_bytes()).hexdigest() for file in source.files]),
    )


def reference(scenes: list, network: networks.CheckerNetwork) -> Features:
    """Of perfect images of the scenes."""
    return features.concatenated(
        [Features(**network(batch)) for batch in prompts.rendered(scenes, network.device)]
    )


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy each have their own.
        raise InputError(f"{path}: can't be read as a shard: {error}") from error


def save(shard: Shard, path: pathlib.Path) -> None:
    arrays = {k: v for k, v in vars(shard.features).items() if v is not None}
    arrays |= {VERDICT + name: value for name, value in shard.verdicts.items()}
    arrays |= {PAIR + name: value for name, value in shard.pairs.items()}
    arrays |= {STAGE + name: value for name, value in shard.stage_s.items()}
    _write(path, arrays | dict(digest=shard.digest))


def load(path: pathlib.Path) -> Shard:
    arrays = _read(path)

    def under(prefix):
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    if "digest" not in arrays:
        raise InputError(f"{path}: has no digest: is no shard")
    return Shard(_features(arrays), under(VERDICT), under(PAIR), under(STAGE), arrays["digest"])


def _features(arrays: dict) -> Features:
    return Features(**{name: arrays.get(name) for name in networks.OUTPUTS})


def save_features(own: Features, path: pathlib.Path) -> None:
    _write(path, {k: v for k, v in vars(own).items() if v is not None})


def load_features(path: pathlib.Path) -> Features:
    return _features(_read(path))


def joined(parts: list[Shard]) -> Shard:
    def together(name):
        return {
            key: np.concatenate([getattr(part, name)[key] for part in parts])
            for key in getattr(parts[0], name)
        }

    return Shard(
        features.concatenated([part.features for part in parts]),
        together("verdicts"),
        together("pairs"),
        together("stage_s"),
        np.concatenate([part.digest for part in parts]),
    )
