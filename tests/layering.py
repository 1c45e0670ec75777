#!/usr/bin/env python3
"""Who may include whom: proto, tls <- server; proto, tls <- worker -> parallel -> engine. Also: no file over 450 lines.

Exits with 1 and a line for each breach. `layering.py --self-test` plants breaches and expects to find them.
"""

import pathlib
import re
import subprocess
import sys

TORCH = r"(ATen|torch|c10)/"
CUDA = r"(cuda|nccl|cudnn|cutlass|cute)[\w/]*\.h"
RPC = r"(grpc|grpcpp|google/protobuf|google/rpc|patchflow)/"

FORBIDDEN = {
    "engine": [r"(parallel|server|worker|client|tls)/", RPC, r"nccl"],
    "parallel": [r"(server|worker|client|tls)/", RPC],
    "tls": [r"(engine|parallel|server|worker|client|patchflow)/", TORCH, CUDA],
    "server": [r"(engine|parallel|worker|client)/", TORCH, CUDA],
    "worker": [r"(server|client)/", r"torch/"],
    "client": [r"(engine|parallel|server|worker)/", TORCH, CUDA],
}
MAX_LINES = 450
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')


def breaches(path: str, text: str) -> list[str]:
    found = []
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        found.append(f"{path}: {len(lines)} lines, limit {MAX_LINES}")
    folder = path.split("/")[0]
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match and any(re.match(rule, match[1]) for rule in FORBIDDEN.get(folder, [])):
            found.append(f"{path}:{number}: {folder} must not include {match[1]}")
    return found


def self_test() -> None:
    assert breaches("engine/a.cc", '#include "parallel/mesh.h"')
    assert breaches("server/a.cc", "#include <ATen/ATen.h>")
    assert breaches("parallel/a.cc", "#include <grpcpp/grpcpp.h>")
    assert breaches("engine/a.cc", "\n" * (MAX_LINES + 1))
    assert breaches("tls/a.cc", '#include "server/log.h"')
    assert not breaches("worker/a.cc", '#include "engine/engine.h"')
    assert not breaches("tests/server/a.cc", '#include "server/queue.h"')


def main() -> int:
    self_test()
    if sys.argv[1:] == ["--self-test"]:
        return 0
    names = subprocess.run(
        ["git", "ls-files", "*.cc", "*.h", "*.cu", "*.cuh", "*.py"], check=True, capture_output=True, text=True
    ).stdout.split()
    found = [breach for name in names for breach in breaches(name, pathlib.Path(name).read_text())]
    print("\n".join(found) or "layering: clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
