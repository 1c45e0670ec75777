#!/usr/bin/env python3
"""Writes rows as bench-parallel-steps does, and fails where it is told to: $CRASH and $HANG name layouts."""

import json
import os
import pathlib
import sys
import time

if "PID_FILE" in os.environ:
    pathlib.Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
words = sys.argv[1:]
value = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i].startswith("--")}
path = pathlib.Path(value["--json"])
layouts = ([] if "--without-serial" in words else ["serial"]) + value["--layouts"].split(";")
machine = {
    "device": "NVIDIA H100",
    "gpus": 4,
    "libtorch": "2",
    "processor": "x",
    "nvls": os.environ["NCCL_NVLS_ENABLE"],
}
report = {"machine": machine | {"p2p_disabled": os.environ.get("NCCL_P2P_DISABLE")}, "rows": [], "image_steps": 20}
for layout in layouts:
    if layout == os.environ.get("CRASH"):
        sys.exit("CUDA out of memory. Tried to allocate 67 GiB")
    if layout == os.environ.get("HANG"):
        time.sleep(600)
    phases = ["synchronous"] + (["stale"] if "warmup" in layout else [])
    ranks = [{"peak_bytes": 2e9}]
    for phase in phases:
        row = {
            "size_px": int(value["--sizes"]),
            "layout": layout,
            "phase": phase,
            "ms": 5.0,
            "peak_gb": 2.0,
            "ranks": ranks,
        }
        report["rows"].append(row)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(report))
    unfinished.rename(path)
    time.sleep(0.3)
