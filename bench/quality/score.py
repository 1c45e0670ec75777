#!/usr/bin/env python3
"""Scores images: against a reference set, against the images they should equal, and by their prompts.

    bench/quality/score.py IMAGES [--reference REF] [--paired FOLDER] [--captions FILE] [--json FILE]
                           [--network FILE] [--lpips FILE] [--size WxH --fit crop|stretch|none]

IMAGES and REF are folders of images or .npz files (arr_0 uint8 [N, H, W, 3]); REF may also hold ready
statistics mu, sigma, mu_s, sigma_s. --size and --fit apply to both.

    --reference  FID, sFID, precision and recall (k = 3); the inception score needs none
    --paired     PSNR and SSIM, and with --lpips (torchvision's AlexNet weights) LPIPS, by name
    --captions   a prompt a line, of those of models/evaluate.py: what share is shown
    --network    TorchScript or ONNX: images uint8 [N, 3, H, W] to pool [N, D], spatial [N, 7, H, W]
                 and logits [N, K]; the checker network of models/ by default

Prints a line for each score; one that the network has no output for is left out, and said so.
"""

import argparse
import json
import os
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
for unwanted in ("USE_TF", "USE_FLAX"):  # transformers would load them
    os.environ.setdefault(unwanted, "0")

from bench.quality import errors, features, images, networks, pack, pairs, prompts, scores  # noqa: E402

NEEDS = dict(fid="pool", sfid="spatial", inception_score="logits", precision="pool", recall="pool")


def distribution_scores(samples: features.Features, reference=None, ready=None) -> dict[str, float]:
    """Of the scores in NEEDS those that the features suffice for.

    reference: Features or None; ready: Statistics by output, used where there are no features.
    """
    found = {}
    for name, output in (("fid", "pool"), ("sfid", "spatial")):
        mine, its = getattr(samples, output), getattr(reference, output, None)
        target = (ready or {}).get(output) if its is None else scores.statistics(its)
        if mine is None or target is None:
            continue
        own = scores.statistics(mine)
        if own.mean.shape != target.mean.shape:
            raise errors.InputError(
                f"--reference: {output} has {len(target.mean)} features, the network {len(own.mean)}"
            )
        found[name] = scores.frechet_distance(target, own)
    if samples.logits is not None:
        found["inception_score"] = scores.inception_score(samples.logits)
    if samples.pool is not None and reference is not None:
        found["precision"], found["recall"] = scores.precision_recall(reference.pool, samples.pool)
    return found


def _open_reference(arguments, fit, network):
    """Features and ready statistics; either may be None."""
    path = arguments.reference
    if path is None:
        return None, None
    if not path.exists():
        raise errors.InputError(f"{path}: does not exist")
    if not path.is_dir():
        ready = features.ready_statistics(path)
        if ready:
            return None, ready
    return features.extract(images.open_images(path, fit), network), None


def _judged(arguments, source) -> dict[str, float]:
    try:
        captions = arguments.captions.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputError(f"{arguments.captions}: can't be read: {error}") from error
    if len(captions) != len(source):
        raise errors.InputError(
            f"{arguments.captions}: {len(captions)} captions, but {source.path} has {len(source)} images"
        )
    judge = prompts.Judge(
        networks.CheckerNetwork(arguments.device).checker,
        prompts.scenes_of(captions, arguments.captions),
        arguments.device,
    )
    for batch in images.batches(source, features.BATCH):
        judge(batch)
    return {name: float(np.nanmean(value)) for name, value in judge.verdicts().items()}


def omitted(found: dict, has_reference: bool, outputs: list[str]) -> list[str]:
    """A sentence for each score that is left out."""
    said = []
    for name, output in NEEDS.items():
        if name in found or (not has_reference and name != "inception_score"):
            continue
        missing = output not in outputs
        said.append(
            f"{name}: left out, "
            + (f"the network has no {output}" if missing else "the reference is ready statistics")
        )
    return said


def score(arguments) -> dict:
    fit = pack.fit_of(arguments)
    source = images.open_images(arguments.images, fit)
    network = networks.open_network(arguments.network, arguments.device)
    reference, ready = _open_reference(arguments, fit, network)
    own = features.extract(source, network)
    for what in (own, reference):
        if what is not None and len(what) <= scores.NEIGHBOUR:
            raise errors.InputError(f"{len(what)} images are too few, the least is {scores.NEIGHBOUR + 1}")
    found: dict = dict(images=len(source), network=network.name)
    found |= distribution_scores(own, reference, ready)
    if arguments.paired:
        lpips = pairs.Lpips(arguments.lpips, arguments.device) if arguments.lpips else None
        values = pairs.compare(
            source, images.open_images(arguments.paired, fit), arguments.device, lpips
        )
        found |= {name: float(value.mean()) for name, value in values.items()}
    if arguments.captions:
        found |= _judged(arguments, source)
    outputs = [name for name in networks.OUTPUTS if getattr(own, name) is not None]
    found["omitted"] = omitted(found, arguments.reference is not None, outputs)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", type=pathlib.Path)
    for name in ("reference", "paired", "captions", "network", "lpips", "json"):
        add(f"--{name}", type=pathlib.Path)
    add("--device", default="cpu", help="cpu or cuda")
    pack.add_fit(parser)
    arguments = parser.parse_args()
    if arguments.lpips and not arguments.paired:
        parser.error("--lpips goes with --paired")
    return arguments


def main() -> None:
    arguments = parse()
    found = score(arguments)
    for name, value in found.items():
        if name != "omitted":
            print(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    for sentence in found["omitted"]:
        print(sentence)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    errors.run(main, "score")
