"""Runs cases until a deadline; each leaves its file when it is done."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from .layout import Layout
from .plan import Case, StepRepeats, repeats_at
from .results import Results

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
START_S = 12.0  # Of a process: libraries, GPUs, weights.
LAYOUT_START_S = 4.0  # Of each layout in it: communicators, weights on every rank, first kernels.
PART_S = {
    "gemm": 60,
    "attention": 70,
    "step": 60,
    "text": 45,
    "link": 30,
    "vae": 100,
    "peer-diffusers": 50,
}  # On an H100.
GRACE_S = 60.0  # To what a case may take besides a multiple of what it should.
STOP_S = 10.0
TINY = ("--blocks", "8", "--heads", "8", "--head-size", "12")  # On CPUs.


class Deadline:
    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()


@dataclasses.dataclass
class Outcome:
    measured: int = 0
    failed: int = 0
    broken: bool = False  # A program could not even measure what nothing is wrong with.


def program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(TOP / "build" / "bin"), os.environ.get("PATH", "")]))
    if not found:
        raise FileNotFoundError(f"{name} is neither in build/bin nor on PATH")
    return found


def environment(p2p: bool) -> dict:
    """Multicast over NVLink needs rights that virtual machines lack."""
    chosen = {"NCCL_NVLS_ENABLE": "0", "OMP_WAIT_POLICY": "passive"}
    return os.environ | chosen | ({} if p2p else {"NCCL_P2P_DISABLE": "1"})


def stop(process: subprocess.Popen) -> None:
    """With its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait(STOP_S)


def last_words(log: pathlib.Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip() and not line.startswith("|")]
    return "\n".join(lines[-3:])[-600:]


class Runner:
    def __init__(self, results: Results, device: str, python: str, models: dict, random_model: pathlib.Path, say=print):
        self.results, self.device, self.python, self.say = results, device, python, say
        self.models, self.random_model = models, random_model
        self.logs = results.folder / "logs"

    def repeats(self, case: Case) -> StepRepeats:
        return repeats_at(case.size_px) if self.device == "cuda" else StepRepeats(1, 2, 4)

    def seconds(self, case: Case) -> float:
        """What a case should take in a process that runs already."""
        if case.kind != "layout":
            return PART_S.get(case.kind, 40 if case.kind.startswith("peer-xdit") else 120)
        if self.device != "cuda":
            return LAYOUT_START_S
        layout, repeats, model = Layout.parse(case.layout), self.repeats(case), self.models[case.p2p]
        first_ms = model.step_ms(layout, case.size_px, False)
        if not layout.is_stale:
            ms = first_ms * (repeats.warm_up + repeats.measured)
        else:
            synchronous = repeats.warm_up + repeats.measured if repeats.synchronous_too else 0
            stale = max(repeats.warm_up, layout.warmup_steps + 3) + repeats.measured
            ms = first_ms * (synchronous + layout.warmup_steps) + model.step_ms(layout, case.size_px, True) * stale
        if repeats.image_steps:  # And one before it.
            ms += 2 * model.image_ms(layout, case.size_px, repeats.image_steps)
        return LAYOUT_START_S + ms / 1e3

    def before(self, group: list) -> float:
        """What a process takes before its first case."""
        if group[0].kind != "layout":
            return 0.0
        serial = dataclasses.replace(group[0], layout="serial")
        beside = self.repeats(serial).beside_serial and group[0].layout != "serial"
        return START_S + (self.seconds(serial) if beside else 0)

    def fitting(self, group: list, left: float) -> list:
        """The first of them that should be done in so many seconds."""
        left -= self.before(group)
        chosen = []
        for case in group:
            left -= self.seconds(case)
            if left < 0:
                break
            chosen.append(case)
        return chosen

    def command(self, group: list, report: pathlib.Path) -> list:
        case = group[0]
        if case.kind != "layout":
            named = {"{json}": str(report), "{python}": self.python}
            first, *rest = [named.get(word, word) for word in case.command]
            return [first if first == self.python else program(first), *rest]
        flags = ["--device", self.device, "--sizes", str(case.size_px), "--json", str(report)]
        flags += ["--cuda-graphs", "on", "--random-model", str(self.random_model), *self.repeats(case).flags()]
        flags += TINY if self.device == "cpu" else ()
        others = [each.layout for each in group if each.layout != "serial"]
        if not others:
            flags, others = [*flags, "--without-serial"], ["serial"]
        return [program("bench-parallel-steps"), *flags, "--layouts", ";".join(others)]

    def run(self, group: list, deadline: Deadline, outcome: Outcome) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        if group[0].kind == "layout":
            self._run_layouts(list(group), deadline, outcome)
        else:
            self._run_part(group[0], deadline, outcome)

    @contextlib.contextmanager
    def _running(self, group: list, report: pathlib.Path, log: pathlib.Path):
        """A process of a session of its own, which ends with this block however that is left."""
        report.unlink(missing_ok=True)
        options = {"cwd": TOP, "env": environment(group[0].p2p), "start_new_session": True}
        with log.open("w") as out:
            process = subprocess.Popen(self.command(group, report), stdout=out, stderr=out, **options)
        try:
            yield process
        finally:
            if process.poll() is None:
                stop(process)

    def _run_part(self, case: Case, deadline: Deadline, outcome: Outcome) -> None:
        report, log = self.logs / f"{case.slug}.report", self.logs / f"{case.slug}.log"
        began = time.monotonic()
        limit = 2 * self.seconds(case) + GRACE_S
        with self._running([case], report, log) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(limit, deadline.left()))
            if process.poll() is None and deadline.left() <= 0:
                return  # The next run begins it again.
        seconds = time.monotonic() - began
        if process.returncode == 0 and report.exists():
            self._done(case, seconds, json.loads(report.read_text()), outcome)
        else:
            self._failed(case, seconds, limit, log, outcome)

    def _run_layouts(self, left: list, deadline: Deadline, outcome: Outcome) -> None:
        """All in one process; the one that ends it is left out of the next."""
        while left and deadline.left() > 0:
            log = self.logs / f"{left[0].slug}.log"
            report = self.logs / f"{left[0].slug}.report"
            began = time.monotonic()
            watch = _Watch(self, left, report, outcome, self.before(left))
            with self._running(left, report, log) as process:
                while process.poll() is None and deadline.left() > 0 and not watch.late():
                    time.sleep(0.1)
                    watch.look()
                timed_out = process.poll() is None
            watch.look()
            if not left or deadline.left() <= 0:
                return
            if not watch.seen and self.repeats(left[0]).beside_serial and not timed_out:
                self.say(f"{left[0].slug}: {last_words(log)}")
                outcome.broken = True
                return
            failed = left.pop(0)
            self._failed(
                failed, time.monotonic() - max(began, watch.since), watch.limit if timed_out else 1e9, log, outcome
            )

    def _done(self, case: Case, seconds: float, report: dict, outcome: Outcome) -> None:
        self.results.save(case, "ok", seconds, report)
        outcome.measured += 1
        self.say(f"{case.slug}: {seconds:.1f} s")

    def _failed(self, case: Case, seconds: float, limit: float, log: pathlib.Path, outcome: Outcome) -> None:
        late = seconds >= limit
        error = f"not done after {limit:.0f} s" if late else last_words(log)
        self.results.save(case, "timeout" if late else "failed", seconds, None, error)
        outcome.failed += 1
        self.say(f"{case.slug}: FAILED: {error}")


class _Watch:
    """Takes each layout's rows as they come out of one process."""

    def __init__(self, runner: Runner, left: list, report: pathlib.Path, outcome: Outcome, before: float):
        self.runner, self.left, self.report, self.outcome = runner, left, report, outcome
        self.since = time.monotonic()
        self.seen = set()
        self.before = before
        self.stamp = 0

    @property
    def limit(self) -> float:
        return 3 * (self.runner.seconds(self.left[0]) + self.before) + GRACE_S

    def late(self) -> bool:
        return bool(self.left) and time.monotonic() - self.since > self.limit

    def look(self) -> None:
        if not self.report.exists() or self.report.stat().st_mtime_ns == self.stamp:
            return
        self.stamp = self.report.stat().st_mtime_ns
        report = json.loads(self.report.read_text())
        fresh = [row["layout"] for row in report["rows"] if row["layout"] not in self.seen]
        for name in dict.fromkeys(fresh):
            self.seen.add(name)
            for case in [case for case in self.left if case.layout == name]:
                rows = [row for row in report["rows"] if row["layout"] == name]
                self.runner._done(case, time.monotonic() - self.since, report | {"rows": rows}, self.outcome)
                self.left.remove(case)
            self.since, self.before = time.monotonic(), 0.0
