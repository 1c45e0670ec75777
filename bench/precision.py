#!/usr/bin/env python3
"""PSNR of the images that a group makes in a narrow dtype to those that another makes in a wider one, over gRPC.

    bench/precision.py [--dtype bfloat16] [--against float32] [--device cuda] [--model DIR] [--size 256x256]
                       [--ranks 1] [--layout "{tensor: 2}"] [--seeds 0,1,2,3] [--steps 20] [--guidance 4.5] [--json FILE]

Of the bundled model, if none is named. Two servers, one after the other: the first of the dtype in question, the second
of the one it is held against, on one rank: float32 on the CPUs, all others on the same device. Bytes of RAW_RGB8 are
compared.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

import end_to_end
import numpy as np

MODEL = pathlib.Path(__file__).resolve().parent.parent / "models" / "shapes-256"
PROMPTS = (
    "a big yellow star in the centre on a dark blue background",
    "a red circle above a cat on a light blue background",
    "a green square on the left and a purple triangle on the right",
    "a small lemon in the top left corner and a panda in the bottom right corner",
)


def draw(server: end_to_end.RunningServer, seed: int, arguments, out: pathlib.Path) -> np.ndarray:
    command = [end_to_end.program("patchflow"), "generate", "--server", server.address, "--quiet"]
    command += ["--steps", str(arguments.steps), "--guidance", str(arguments.guidance), "--seed", str(seed)]
    command += ["--size", arguments.size] if arguments.size else []
    prompt = PROMPTS[seed % len(PROMPTS)]
    subprocess.run([*command, "--format", "raw", "--out", str(out), prompt], check=True, timeout=300)
    return np.fromfile(out, np.uint8).astype(np.float64)


def images_of(group: str, arguments) -> list[np.ndarray]:
    config = (
        'server: {listen: "127.0.0.1:0", metrics: "127.0.0.1:0"}\n'
        f"groups: [{{model: {arguments.model.resolve()}, {group}}}]\n"
    )
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        server = end_to_end.RunningServer(config, directory)
        try:
            server.seconds_to_ready()
            return [draw(server, seed, arguments, directory / "image.raw") for seed in arguments.seeds]
        finally:
            server.stop()


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    mse = float(((a - b) ** 2).mean())
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--against", default="float32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=pathlib.Path, default=MODEL)
    parser.add_argument("--size", default="", help="such as 1024x1024; the model's own, if left out")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--layout", default="{}")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=list(range(8)))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    device = f"device: {arguments.device}"
    narrow = f"{device}, dtype: {arguments.dtype}, ranks: {arguments.ranks}, layout: {arguments.layout}"
    wide = f"{'device: cpu' if arguments.against == 'float32' else device}, dtype: {arguments.against}"
    groups = [images_of(group, arguments) for group in (narrow, wide)]
    values = [psnr_db(a, b) for a, b in zip(*groups, strict=True)]
    report = {"model": arguments.model.name, "dtype": arguments.dtype, "against": arguments.against}
    report |= {"layout": arguments.layout, "device": arguments.device, "size": arguments.size, "steps": arguments.steps}
    report |= {"guidance": arguments.guidance, "seeds": arguments.seeds}
    report |= {"psnr_db": [round(value, 2) for value in values]}
    report |= {"median_db": statistics.median(values), "lowest_db": min(values)}
    print(json.dumps(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
