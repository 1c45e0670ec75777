"""A built patchflow-server whose workers take set times and make no images (tests/server/fake_worker.h): what the load
programs measure and disturb."""

import contextlib
import hashlib
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(TOP / "tests"))

import harness  # noqa: E402

CLIENT = harness.BIN / "patchflow"
COUNTED = {  # The calls of requests_total.
    "GenerateImages", "GenerateImagesUnary", "FetchGeneration", "GetGeneration", "CancelGeneration", "GetGenerationTrace",
    "ListModels", "GetModel",
}
PLAN = "plan-1"
IMAGE_BYTES = 4096
PNG = 1


class MeasuredServer(harness.Server):
    """With an audit log, and figures of the front end's process."""

    def __init__(self, groups: list[harness.Group], extra: dict | None = None):
        self.folder = tempfile.TemporaryDirectory(prefix="patchflow-load-")
        self.path = pathlib.Path(self.folder.name)
        audit = {"file": str(self.path / "audit.jsonl"), "max_bytes": 4 << 30}
        super().__init__(groups, {"audit": audit} | (extra or {}))

    def metric(self, name: str, *labels: str) -> list[float]:
        """The values of the series with these labels, written as in /metrics."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if re.match(rf"{name}(\{{|\s)", line) and all(label in line for label in labels)
        ]

    def workers(self) -> list[int]:
        """The pids of its workers."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children")
            return sorted({int(pid) for file in children for pid in file.read_text().split()})
        return []

    def resident_mib(self) -> float:
        """Memory of the front end alone."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def cpu_s(self) -> float:
        """Of the front end alone."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def audit(self) -> list[dict]:
        """The whole lines of the audit log."""
        text = (self.path / "audit.jsonl").read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def settled_audit(self, timeout_s: float = 30) -> list[dict]:
        """The lines of the audit log, once nothing is at work and all calls are in it (it is written behind)."""
        deadline = time.monotonic() + timeout_s
        while True:
            audit = self.audit()
            calls = sum(line["event"] == "call" and line["method"] in COUNTED for line in audit)
            busy = sum(self.metric("patchflow_generations_live")) + sum(self.metric("patchflow_streams_open"))
            if busy == 0 and calls >= sum(self.metric("patchflow_requests_started_total")):
                return audit
            assert time.monotonic() < deadline, f"{busy:.0f} still at work, {calls} calls in the audit log"
            time.sleep(0.1)

    def close(self):
        super().close()
        self.folder.cleanup()


class FakeServer(MeasuredServer):
    """`groups` groups of one model, whose images take `step_ms` a step. `more` overrides any part of the configuration, key
    by key."""

    def __init__(self, groups: int = 1, step_ms: float = 1, load_ms: float = 0, more: dict | None = None):
        os.environ["PATCHFLOW_FAKE_STEP_MS"] = str(step_ms)
        os.environ["PATCHFLOW_FAKE_LOAD_MS"] = str(load_ms)
        self.groups = groups
        self.model = tempfile.TemporaryDirectory(prefix="patchflow-model-")
        extra = {
            "worker_binary": str(harness.BIN / "patchflow-fake-worker"),
            "supervision": {"back_off": "10ms"},
        }
        model = pathlib.Path(self.model.name)
        super().__init__(
            [harness.Group(model, model_name="shapes", name=f"g{i}") for i in range(groups)], extra | (more or {})
        )
        self.wait_groups()

    def wait_groups(self, timeout_s: float = 30):
        """Until every group serves."""
        deadline = time.monotonic() + timeout_s
        while sum(self.metric("patchflow_group_state", 'state="serving"')) < self.groups:
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"not all groups serve after {timeout_s} s:\n{self.log()}"
            time.sleep(0.05)

    def start_again(self):
        """After its process has ended: the same configuration, on new ports."""
        self.channel.close()
        self.launch()
        self.wait_groups()

    def close(self):
        super().close()
        self.model.cleanup()


def load_command(server: harness.Server, *arguments) -> list[str]:
    return [str(CLIENT), "load", "--server", server.address, "--json", "--quiet", *map(str, arguments)]


def load(server: harness.Server, *arguments, timeout_s: float = 600) -> dict:
    """The report of `patchflow load`."""
    done = subprocess.run(load_command(server, *arguments), capture_output=True, text=True, timeout=timeout_s)
    if done.returncode not in (0, 1, 4) or not done.stdout:
        raise RuntimeError(f"patchflow load ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout) | {"stderr": done.stderr}


def kill_a_worker(server: FakeServer, turn: int) -> bool:
    """kill -9; whether there was one."""
    workers = server.workers()
    if not workers:
        return False
    try:
        os.kill(workers[turn % len(workers)], signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def fake_image_sha256(record: dict, width: int, height: int, seed: int) -> str:
    """Of the image that a fake worker makes for a request of this record (FakeImage of fake_worker.cc)."""
    text = f"{record['prompt']}||{seed}|{width}x{height}|{PNG}|{PLAN}"
    key = hashlib.sha256(text.encode()).digest()
    data = (key * (IMAGE_BYTES // len(key) + 1))[:IMAGE_BYTES]
    return hashlib.sha256(data).hexdigest()


LOAD_AVERAGE_BEFORE = os.getloadavg()[0]  # Of the minute before a program began.


def machine() -> dict:
    """What a figure was measured on."""
    model = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(
        ["git", "-C", str(TOP), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": harness.environment_threads(),
        "load_average_before": LOAD_AVERAGE_BEFORE,
        "commit": commit,
    }


class Beside:
    """Does its _run() on a thread of its own inside a `with`, until _over is set. What that raises, the `with` raises."""

    def __init__(self):
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guard)

    def _guard(self):
        try:
            self._run()
        except BaseException as failure:
            self._failure = failure

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        self._over.set()
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure


def conclude(path: pathlib.Path | None, result: dict) -> int:
    """Writes the result to the file, or to the standard output, and its faults to the other; the exit status."""
    text = json.dumps(result | {"machine": machine()}, indent=1) + "\n"
    if path is None:
        print(text, end="")
    else:
        path.write_text(text)
    for fault in result["faults"]:
        print(fault, file=sys.stderr)
    return 1 if result["faults"] else 0
