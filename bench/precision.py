#!/usr/bin/env python3
"""PSNR of the images that a group makes in a narrow dtype to those that float32 makes, over gRPC, of the bundled model.

    bench/precision.py [--dtype bfloat16] [--device cuda] [--images 8] [--steps 20] [--guidance 4.5] [--json FILE]

One server with two groups: the one in question, and float32 on the CPUs. Bytes of RAW_RGB8 are compared.
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


def draw(server: end_to_end.RunningServer, model: str, prompt: str, seed: int, arguments, out: pathlib.Path) -> np.ndarray:
    command = [end_to_end.program("patchflow"), "generate", "--server", server.address, "--quiet", "--model", model]
    command += ["--steps", str(arguments.steps), "--guidance", str(arguments.guidance), "--seed", str(seed)]
    subprocess.run([*command, "--format", "raw", "--out", str(out), prompt], check=True, timeout=300)
    return np.fromfile(out, np.uint8).astype(np.float64)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    mse = float(((a - b) ** 2).mean())
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    narrow = f"{{model: {MODEL}, model_name: narrow, device: {arguments.device}, dtype: {arguments.dtype}}}"
    exact = f"{{model: {MODEL}, model_name: exact, device: cpu, dtype: float32}}"
    config = f'server: {{listen: "127.0.0.1:0", metrics: "127.0.0.1:0"}}\ngroups: [{narrow}, {exact}]\n'
    values = []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        server = end_to_end.RunningServer(config, directory)
        try:
            server.seconds_to_ready(models=2)
            for seed in range(arguments.images):
                prompt, out = PROMPTS[seed % len(PROMPTS)], directory / "image.raw"
                values.append(
                    psnr_db(*(draw(server, model, prompt, seed, arguments, out) for model in ("narrow", "exact")))
                )
        finally:
            server.stop()
    report = {"dtype": arguments.dtype, "device": arguments.device, "steps": arguments.steps}
    report |= {"psnr_db": [round(value, 2) for value in values]}
    report |= {"median_db": statistics.median(values), "lowest_db": min(values)}
    print(json.dumps(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
