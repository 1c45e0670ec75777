#!/usr/bin/env python3
"""kill -9, again and again: of a real worker under load, and of the front end with detached jobs.

    bench/load/kills.py [--kills 20] [--out FILE]

* The bundled model on CPUs, its worker killed in the midst of its work: every request completes, with the bytes that
  an undisturbed run makes, and the group serves again within the time that the model took to load before anything was
  disturbed, and 5 s.
* The front end killed while clients hand in detached jobs: each that was accepted is there to fetch afterwards, with all
  bytes of all its images.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import grpc  # noqa: E402

from bench.load.fake_server import (  # noqa: E402
    Beside,
    FakeServer,
    MeasuredServer,
    conclude,
    fake_image_sha256,
    harness,
    kill_a_worker,
    load_command,
)
from bench.load.join import Join  # noqa: E402

MAX_RECOVERY_BEYOND_LOAD_S = 5
SHAPE = ("--mix", "256x256:4")


class WorkerKiller(Beside):
    """Kills the worker of a server `kills` times, each time when it works again and has completed something."""

    def __init__(self, server: MeasuredServer, kills: int):
        self.server, self.to_kill = server, kills
        self.recoveries_s = []
        super().__init__()

    def _serving(self) -> bool:
        return sum(self.server.metric("patchflow_group_state", 'state="serving"')) > 0

    def _done(self) -> float:
        return sum(self.server.metric("patchflow_images_total"))

    def _run(self):
        pause = random.Random(1)
        done = -1
        while len(self.recoveries_s) < self.to_kill and not self._over.wait(0.05):
            if not self._serving() or self._done() <= done:
                continue
            self._over.wait(pause.uniform(0, 0.3))  # So that every phase of a job is hit.
            done = self._done()
            killed = time.monotonic()
            if not kill_a_worker(self.server, 0):
                continue
            while self._serving() and not self._over.wait(0.01):
                pass
            while not self._serving() and not self._over.wait(0.01):
                pass
            self.recoveries_s.append(time.monotonic() - killed)


def load_records(server: MeasuredServer, requests: int) -> list[dict]:
    """What a load run saw; the same requests in every run."""
    path = server.path / "records.jsonl"
    command = load_command(
        server, "--concurrency", 4, "--requests", requests, "--seed", 11, "--records", path, "--timeout", "300s", *SHAPE
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in path.read_text().splitlines()]


def images_of(records: list[dict]) -> dict:
    return {record["number"]: [image["sha256"] for image in record["images"]] for record in records}


def worker_kills(kills: int, requests_a_kill: int = 6) -> dict:
    requests = kills * requests_a_kill
    with MeasuredServer([harness.Group(harness.BUNDLED)], {"supervision": {"back_off": "10ms"}}) as server:
        server.wait_ready()
        load_s = sum(server.metric("patchflow_model_load_seconds"))
        undisturbed = load_records(server, requests)
    with MeasuredServer([harness.Group(harness.BUNDLED)], {"supervision": {"back_off": "10ms"}}) as server:
        server.wait_ready()
        with WorkerKiller(server, kills) as killer:
            disturbed = load_records(server, requests)
        joined = Join(disturbed, server.settled_audit(), check_images=False).summary()
    faults = list(joined["first_faults"])
    if set(joined["outcomes"]) != {"OK"}:
        faults.append(f"not all succeeded: {joined['outcomes']}")
    if images_of(disturbed) != images_of(undisturbed) or not undisturbed:
        faults.append("the images are not those of an undisturbed run")
    if len(killer.recoveries_s) < kills or not kills:
        faults.append(f"only {len(killer.recoveries_s)} of {kills} workers were killed")
    if not load_s:
        faults.append("the undisturbed server does not say how long the model took to load")
    if max(killer.recoveries_s, default=0) > load_s + MAX_RECOVERY_BEYOND_LOAD_S:
        faults.append(f"a recovery took {max(killer.recoveries_s):.1f} s, a load before {load_s:.1f} s")
    if not joined["reruns"]:
        faults.append("no kill hit a running job")
    return {
        "kills": len(killer.recoveries_s),
        "requests": requests,
        "reruns": joined["reruns"],
        "recovery_s": {"median": statistics.median(killer.recoveries_s), "max": max(killer.recoveries_s)},
        "undisturbed_load_s": load_s,
        "beyond_load_s": {"median": statistics.median(killer.recoveries_s) - load_s, "max": max(killer.recoveries_s) - load_s},
        "faults": faults,
    }


class Submitter(Beside):
    """Hands in detached jobs and leaves once they are accepted, whether the server is there or not."""

    def __init__(self):
        self.accepted = {}  # Seed by id.
        self._server = None
        super().__init__()

    def use(self, server):
        self._server = server

    def _run(self):
        pb, _ = harness.api()
        for number in range(1_000_000):
            if self._over.wait(0.02):
                return
            if self._server is None:
                continue
            request = pb.GenerateImagesRequest(request_id=f"job-{number}", prompt=pb.Prompt(text=f"job {number}"))
            request.sampling.steps, request.sampling.seed = 3, number
            request.image.count = images_of_job(number)
            request.scheduling.on_disconnect = pb.DISCONNECT_POLICY_DETACH
            try:
                call = self._server.stub.GenerateImages(request, timeout=5)
                if next(call).HasField("accepted"):
                    self.accepted[f"job-{number}"] = number
                call.cancel()
            except (grpc.RpcError, StopIteration, ValueError):
                self._over.wait(0.05)


def images_of_job(number: int) -> int:
    return 1 + number % 3


def fetched_sha256(server: FakeServer, request_id: str) -> list[str]:
    """Of the bytes of each image, of a generation that is fetched to its end."""
    pb, _ = harness.api()
    headers, images, completed = [], [], False
    for wrapped in server.stub.FetchGeneration(pb.FetchGenerationRequest(request_id=request_id), timeout=60):
        event = wrapped.message.WhichOneof("event")
        if event == "image_header":
            headers.append(wrapped.message.image_header)
            images.append(b"")
        elif event == "image_chunk":
            assert wrapped.message.image_chunk.offset == len(images[-1])
            images[-1] += wrapped.message.image_chunk.data
        completed = completed or event == "completed"
    assert completed, f"{request_id}: the stream ended without Completed"
    made = [hashlib.sha256(image).hexdigest() for image in images]
    assert made == [header.sha256.hex() for header in headers], f"{request_id}: not the bytes of the headers"
    return made


def job_faults(server: FakeServer, request_id: str, seed: int) -> list[str]:
    """What is wrong with a job of the Submitter; waits until it is done."""
    record = {"prompt": request_id.replace("-", " ")}
    expected = [fake_image_sha256(record, *DEFAULT_SIZE, seed + i) for i in range(images_of_job(seed))]
    try:
        got = fetched_sha256(server, request_id)
    except grpc.RpcError as error:
        return [f"{request_id}: {error.code()} {error.details()}"]
    except AssertionError as error:
        return [str(error)]
    return [] if got == expected else [f"{request_id}: other bytes than those of its request"]


def front_end_kills(kills: int) -> dict:
    chance = random.Random(2)
    ready_s = []
    faults = []
    with FakeServer(2, 20, more={"store": {"directory": "store"}}) as server:
        with Submitter() as submitter:
            for _ in range(kills):
                submitter.use(server)
                time.sleep(chance.uniform(0.2, 1.2))
                os.kill(server.process.pid, signal.SIGKILL)
                server.process.wait()
                killed = time.monotonic()
                server.start_again()
                ready_s.append(time.monotonic() - killed)
        for request_id, seed in submitter.accepted.items():
            faults += job_faults(server, request_id, seed)
    if len(submitter.accepted) < 3 * kills:
        faults.append(f"only {len(submitter.accepted)} jobs were accepted between {kills} kills")
    return {
        "kills": kills,
        "jobs_accepted": len(submitter.accepted),
        "ready_again_s": {"median": statistics.median(ready_s), "max": max(ready_s)},
        "faults": faults,
    }


DEFAULT_SIZE = (256, 256)  # Of the fake worker's model.


def run(kills: int) -> dict:
    workers, front_end = worker_kills(kills), front_end_kills(kills)
    return {"workers": workers, "front_end": front_end, "faults": workers["faults"] + front_end["faults"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    return conclude(arguments.out, run(arguments.kills))


if __name__ == "__main__":
    sys.exit(main())
