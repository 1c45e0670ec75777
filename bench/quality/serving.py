"""Draws prompts by the built server and client, on as many copies of a group as there are GPUs."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import time

from bench import end_to_end

from .errors import InputError
from .plan import Configuration, Plan

LEAST_S = 5.0
STOP_S = 30


class OutOfTime(Exception):
    """The deadline came; the same command goes on from here."""


class Deadline:
    def __init__(self, seconds: float | None):
        self._at = None if seconds is None else time.monotonic() + seconds

    def left_s(self) -> float | None:
        return None if self._at is None else self._at - time.monotonic()

    def check(self) -> None:
        left = self.left_s()
        if left is not None and left < LEAST_S:
            raise OutOfTime


class Fleet:
    """Servers of one group each, with GPUs of their own; use as a context manager.

    Without GPUs there is one.
    """

    def __init__(self, model: pathlib.Path, serving: tuple, device: str, dtype: str, gpus: int):
        self._model, (self._ranks, self._layout) = model, serving
        self._device, self._dtype, self._gpus = device, dtype, gpus
        self.servers: list[end_to_end.RunningServer] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Fleet":
        copies = max(1, self._gpus // self._ranks)
        if self._gpus and self._ranks > self._gpus:
            raise InputError(f"{self._ranks} ranks need as many GPUs, but there are {self._gpus}")
        try:
            for copy in range(copies):
                self.servers.append(self._start(copy))
            for server in self.servers:
                server.seconds_to_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, copy: int) -> end_to_end.RunningServer:
        group = dict(model=str(self._model.resolve()), device=self._device, ranks=self._ranks)
        group["layout"] = dict(self._layout)
        if self._dtype:
            group["dtype"] = self._dtype
        config = dict(server=dict(listen="127.0.0.1:0", metrics="127.0.0.1:0"), groups=[group])
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        own = range(copy * self._ranks, (copy + 1) * self._ranks)
        with _environment("CUDA_VISIBLE_DEVICES", ",".join(map(str, own)) if self._gpus else None):
            # JSON is YAML.
            return end_to_end.RunningServer(json.dumps(config), pathlib.Path(folder))

    def __exit__(self, *_) -> None:
        for server in self.servers:
            server.stop()
        self.servers = []
        self._stack.close()


@contextlib.contextmanager
def _environment(name: str, value: str | None):
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


def draw(
    fleet: Fleet,
    plan: Plan,
    configuration: Configuration,
    shard: int,
    captions: pathlib.Path,
    out: pathlib.Path,
    in_flight: int,
    deadline: Deadline,
) -> None:
    """Draws what `out` lacks of a shard; appends a line for each image to out/tries.jsonl.

    OutOfTime if the deadline comes first, InputError with the client's words if it fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    copies, running = len(fleet.servers), []
    try:
        for number, server in enumerate(fleet.servers):
            part = f"{shard * copies + number + 1}/{plan.shards * copies}"
            command = [end_to_end.program("patchflow"), "generate", "--server", server.address]
            command += ["--captions", str(captions), "--first", str(plan.prompts), "--part", part]
            command += ["--seed", str(configuration.first_seed), "--steps", str(configuration.steps)]
            command += ["--guidance", str(plan.guidance), "--in-flight", str(in_flight)]
            command += ["--out", f"{out}/", "--json", "--quiet"]
            command += ["--size", plan.size] if plan.size else []
            lines = (out / f"tries-{number}.jsonl").open("a")
            running.append(
                subprocess.Popen(command, stdout=lines, stderr=subprocess.PIPE, text=True)
            )
            lines.close()
        for process in running:
            _finish(process, deadline)
    finally:
        for process in running:
            _stop(process)


def _finish(process: subprocess.Popen, deadline: Deadline) -> None:
    left = deadline.left_s()
    try:
        _, said = process.communicate(timeout=None if left is None else max(0, left))
    except subprocess.TimeoutExpired:
        raise OutOfTime from None
    if process.returncode:
        raise InputError(f"patchflow generate ended with {process.returncode}: {said.strip()[-2000:]}")


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def stage_seconds(folder: pathlib.Path, numbers: range) -> dict[str, list[float]]:
    """By stage, seconds of each image, NaN where its line was lost; from tries-*.jsonl."""
    timings: dict[int, dict] = {}
    for file in sorted(folder.glob("tries-*.jsonl")):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # Half a line, of a client that was stopped.
                entry = json.loads(line)
                if entry.get("status") == "OK":
                    timings[entry["number"]] = entry["timings"]
    stages = sorted({stage for entry in timings.values() for stage in entry})
    return {
        stage: [timings.get(number, {}).get(stage, float("nan")) for number in numbers]
        for stage in stages
    }
