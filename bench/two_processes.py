#!/usr/bin/env python3
"""A group in one process and in a process for each rank, as over several hosts: the same layout must make the same bytes.

    bench/two_processes.py MODEL_DIR [--device cuda] [--ranks 2] [--layout "{ulysses: 2}"] [--images 3]

Prints how many images are identical, and ends with status 1 if one is not.
"""

import argparse
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from bench import end_to_end  # noqa: E402


def draw(arguments, processes: int, folder: pathlib.Path) -> list[bytes]:
    folder.mkdir()
    group = f"{{model: {arguments.model.resolve()}, device: {arguments.device}, ranks: {arguments.ranks}, "
    group += f"processes: {processes}, layout: {arguments.layout}}}"
    server = end_to_end.RunningServer(f'server: {{listen: "127.0.0.1:0"}}\ngroups: [{group}]\n', folder)
    try:
        print(f"{processes} processes: ready after {server.seconds_to_ready():.1f} s", flush=True)
        images = []
        for seed in range(arguments.images):
            out = folder / f"{seed}.png"
            end_to_end.generate(server, arguments.size, arguments.steps, seed, out, 4.5)
            images.append(out.read_bytes())
        return images
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layout", default="{ulysses: 2}")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        one = draw(arguments, 1, folder / "one")
        many = draw(arguments, arguments.ranks, folder / "many")
    same = sum(a == b for a, b in zip(one, many, strict=True))
    print(f"{arguments.layout}: {same} of {len(one)} images identical")
    sys.exit(0 if same == len(one) else 1)


if __name__ == "__main__":
    main()
