#!/usr/bin/env python3
"""Images over gRPC from a running patchflow-server: time to ready, seconds an image and in each stage of it, peak memory,
and what its ranks say of their communication.

    bench/end_to_end.py MODEL_DIR [--device cuda] [--dtype bfloat16] [--ranks N] [--layout "{ulysses: 2}"]
                        [--size 1024x1024] [--steps 20] [--images 5] [--clients 1] [--json FILE]
                        [--keep-image FILE]

Starts the programs of build/bin (or PATH), drives them with the command-line client, and stops them.
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request

BIN = pathlib.Path(__file__).resolve().parent.parent / "build" / "bin"
READY_TIMEOUT_S = 400


def program(name: str) -> str:
    built = BIN / name
    found = str(built) if built.exists() else shutil.which(name)
    assert found, f"{name} is neither in build/bin nor on PATH"
    return found


class RunningServer:
    def __init__(self, config: str, directory: pathlib.Path):
        (directory / "config.yaml").write_text(config)
        self.log_path = directory / "log"
        self.began = time.monotonic()
        with self.log_path.open("w") as log:
            command = [program("patchflow-server"), "--config", str(directory / "config.yaml")]
            self.process = subprocess.Popen(command, stderr=log)
        self.address = self._wait(r'"listen":\s*"([^"]+:\d+)"')

    def _wait(self, pattern: str) -> str:
        while time.monotonic() - self.began < READY_TIMEOUT_S:
            match = re.search(pattern, self.log_path.read_text())
            if match:
                return match[1]
            assert self.process.poll() is None, self.log_path.read_text()
            time.sleep(0.02)
        raise TimeoutError(self.log_path.read_text())

    def seconds_to_ready(self, models: int = 1) -> float:
        while time.monotonic() - self.began < READY_TIMEOUT_S:
            listed = subprocess.run(
                [program("patchflow"), "models", "--server", self.address, "--json"], capture_output=True, text=True
            )
            if listed.returncode == 0 and listed.stdout.replace(" ", "").count('"ready":true') >= models:
                return time.monotonic() - self.began
            assert self.process.poll() is None, self.log_path.read_text()
            time.sleep(0.05)
        raise TimeoutError(self.log_path.read_text())

    def communication(self) -> dict[str, float]:
        """Seconds of each rank so far, by the metric's name and labels."""
        address = self._wait(r'"metrics":\s*"([^"]+:\d+)"')
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as page:
            lines = page.read().decode().splitlines()
        return {name: float(value) for name, value in (line.split() for line in lines if line.startswith("patchflow_comm_duration_"))}

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def prompt_of(seed: int) -> str:
    """Another one for each image: a text that was just encoded is not encoded again."""
    return f"a red star on a blue background, and a yellow moon beside number {seed}"


def generate(server: RunningServer, size: str, steps: int, seed: int, out: pathlib.Path, guidance: float) -> dict:
    began = time.monotonic()
    command = [program("patchflow"), "generate", "--server", server.address, "--json", "--size", size]
    command += ["--steps", str(steps), "--seed", str(seed), "--guidance", str(guidance), "--out", str(out)]
    done = subprocess.run([*command, prompt_of(seed)], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr + server.log_path.read_text()[-4000:]
    return {"client_s": time.monotonic() - began, "reply": json.loads(done.stdout.splitlines()[-1])}


def medians(replies: list[dict]) -> dict[str, float]:
    """Seconds of each stage."""
    stages = replies[0]["timings"]
    return {stage: statistics.median(reply["timings"][stage] for reply in replies) for stage in stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--layout", default="{}")
    parser.add_argument("--size", default="1024x1024")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--images", type=int, default=5, help="after the first; 0: the first alone")
    parser.add_argument("--clients", type=int, default=1, help="that ask for them at once, each for one after the other")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--keep-image", type=pathlib.Path)
    arguments = parser.parse_args()
    dtype = f", dtype: {arguments.dtype}" if arguments.dtype else ""
    config = (
        'server: {listen: "127.0.0.1:0", metrics: "127.0.0.1:0"}\n'
        f"groups: [{{model: {arguments.model.resolve()}, device: {arguments.device}, ranks: {arguments.ranks}, "
        f"layout: {arguments.layout}{dtype}}}]\n"
    )
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        server = RunningServer(config, directory)
        try:
            report = {"ready_s": server.seconds_to_ready(), "size": arguments.size, "steps": arguments.steps}
            report["layout"], report["ranks"] = arguments.layout, arguments.ranks
            report["clients"] = arguments.clients

            def run(seed: int) -> dict:
                out = directory / f"{seed}.png"
                return generate(server, arguments.size, arguments.steps, seed, out, arguments.guidance)

            runs = [run(0)]
            began = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(arguments.clients) as pool:
                runs += pool.map(run, range(1, arguments.images + 1))
            report["images_per_s"] = arguments.images / (time.monotonic() - began)
            if arguments.keep_image:
                shutil.copy(directory / "0.png", arguments.keep_image)
            report["first_image_s"] = runs[0]["client_s"]
            report["image_s"] = statistics.median(run["client_s"] for run in runs[1:] or runs)
            report["replies"] = [run["reply"] for run in runs]
            report["timings"] = medians(report["replies"][1:] or report["replies"])
            report["communication"] = server.communication()
        finally:
            server.stop()
    print(json.dumps({key: value for key, value in report.items() if key != "replies"}))
    print(json.dumps(report["replies"][-1]))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
