#!/usr/bin/env python3
"""Seconds an image of the bundled model on this machine's CPUs, over gRPC, against stock diffusers with as many threads.

    bench/against_diffusers_cpu.py [--images 7] [--steps 20] [--threads N] [--json FILE]

Both in float32 at the same size, steps and guidance; images of the two are made in turn, so that whatever else the
machine does falls on both; medians after one warm-up each. Ours counts from the start of the command-line client to
the written PNG; diffusers' from the call of the pipeline to a PNG in memory. Beside the seconds stand those of CPUs: of
ours by the client, the server and its workers, of diffusers by this program; they tell more where others use the CPUs.
"""

import argparse
import io
import json
import os
import pathlib
import resource
import statistics
import tempfile
import time

import diffusers
import end_to_end
import torch

MODEL = pathlib.Path(__file__).resolve().parent.parent / "models" / "shapes-256"


def diffusers_image_s(pipeline, seed: int, steps: int, guidance: float) -> float:
    began = time.monotonic()
    image = pipeline(
        end_to_end.prompt_of(seed),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
        use_resolution_binning=False,
    ).images[0]
    image.save(io.BytesIO(), "PNG")
    return time.monotonic() - began


def ticks_of(process: pathlib.Path) -> tuple[int, int]:
    """A process's parent, and the clock ticks that it has used; /proc/PID/stat."""
    fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[1]), int(fields[11]) + int(fields[12])


def our_cpu_s(server_pid: int) -> float:
    """CPU seconds so far of the server, of its workers and of the clients that have ended."""
    ticks = 0
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent, used = ticks_of(process)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if server_pid in (parent, int(process.name)):
            ticks += used
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + ended.ru_utime + ended.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pipeline = diffusers.PixArtAlphaPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    config = (
        'server: {listen: "127.0.0.1:0", metrics: "127.0.0.1:0"}\n'
        f"groups: [{{model: {MODEL}, device: cpu, threads: {arguments.threads}}}]\n"
    )
    ours, theirs, our_cpu, their_cpu = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        server = end_to_end.RunningServer(config, directory)
        try:
            server.seconds_to_ready()
            for seed in range(arguments.images + 1):
                out = directory / "image.png"
                began = our_cpu_s(server.process.pid)
                run = end_to_end.generate(server, "256x256", arguments.steps, seed, out, arguments.guidance)
                ours.append(run["client_s"])
                our_cpu.append(our_cpu_s(server.process.pid) - began)
                began = time.process_time()
                theirs.append(diffusers_image_s(pipeline, seed, arguments.steps, arguments.guidance))
                their_cpu.append(time.process_time() - began)
        finally:
            server.stop()
    report = {
        "patchflow_s": statistics.median(ours[1:]),
        "diffusers_s": statistics.median(theirs[1:]),
        "ratio": statistics.median(ours[1:]) / statistics.median(theirs[1:]),
        "patchflow_cpu_s": statistics.median(our_cpu[1:]),
        "diffusers_cpu_s": statistics.median(their_cpu[1:]),
        "cpu_ratio": statistics.median(our_cpu[1:]) / statistics.median(their_cpu[1:]),
        "threads": arguments.threads,
        "steps": arguments.steps,
        "images": arguments.images,
    }
    print(json.dumps(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
