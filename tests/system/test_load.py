"""kill -9 again and again, and the tools that put load on a server: Locust, ghz's files, the plot."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import harness
import pytest
from google.protobuf import json_format

sys.path.insert(0, str(harness.TOP))

from bench.load import kills  # noqa: E402
from bench.load.fake_server import FakeServer, load  # noqa: E402

LOAD = harness.TOP / "bench" / "load"
# What ghz 0.117 reads from a file (runner/options.go, cmd/ghz/config.go), as far as we use it.
GHZ_KEYS = {
    "proto", "import-paths", "call", "host", "insecure", "name", "data", "timeout", "total", "duration", "duration-stop",
    "concurrency", "concurrency-schedule", "concurrency-start", "concurrency-end", "concurrency-step",
    "concurrency-step-duration", "concurrency-max-duration", "connections", "async", "load-schedule", "load-start", "load-end",
    "load-step", "load-step-duration", "load-max-duration", "count-errors", "skipFirst",
}  # fmt: skip


def faultless(result: dict):
    print(json.dumps(result, indent=1))
    assert result["faults"] == []


@pytest.mark.timeout(300)
def test_what_a_killed_worker_was_at_is_made_again_with_the_same_bytes():
    faultless(kills.worker_kills(3))


def test_no_detached_job_is_lost_when_the_front_end_is_killed():
    faultless(kills.front_end_kills(3))


@pytest.mark.parametrize("break_it", [lambda path: os.truncate(path, 4000), pathlib.Path.unlink], ids=["cut", "gone"])
def test_an_image_that_is_cut_or_gone_is_a_fault_of_its_job(break_it):
    seed = 2  # That many images and one.
    pb, _ = harness.api()
    request = pb.GenerateImagesRequest(request_id=f"job-{seed}", prompt=pb.Prompt(text=f"job {seed}"))
    request.sampling.steps, request.sampling.seed, request.image.count = 3, seed, kills.images_of_job(seed)
    request.scheduling.on_disconnect = pb.DISCONNECT_POLICY_DETACH
    with FakeServer(1, 1, more={"store": {"directory": "store"}}) as server:
        harness.generate(server, request)
        server.process.terminate()  # It writes what waits to be stored.
        server.process.wait(30)
        images = sorted((server.log_path.parent / "store" / "images").iterdir())
        server.start_again()
        assert len(images) == 3 and kills.job_faults(server, request.request_id, seed) == []
        server.process.terminate()
        server.process.wait(30)
        break_it(images[-1])
        server.start_again()
        assert kills.job_faults(server, request.request_id, seed) != []


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_twenty_kills_of_a_worker():
    faultless(kills.worker_kills(20))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_twenty_kills_of_the_front_end():
    faultless(kills.front_end_kills(20))


def run_locust(server, tmp_path, *arguments) -> dict:
    """Statistics by (type, name)."""
    prefix = tmp_path / "locust"
    command = [sys.executable, "-m", "locust", "-f", LOAD / "locustfile.py", "--host", server.address, "--headless"]
    command += ["--only-summary", "--csv", prefix, "--exit-code-on-error", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(f"{prefix}_stats.csv") as table:
        return {(row["Type"], row["Name"]): row for row in csv.DictReader(table)}


def test_locust_users_load_the_server(tmp_path):
    with FakeServer(2, 1) as server:
        stats = run_locust(server, tmp_path, "-u", "4", "-r", "4", "-t", "3s", "--mix", "256x256:2:3,512x512:3:1")
    small, large = stats["done", "256x256, 2 steps"], stats["done", "512x512, 3 steps"]
    assert int(small["Request Count"]) > int(large["Request Count"]) > 0
    assert int(small["Failure Count"]) == int(large["Failure Count"]) == 0
    assert float(small["Average Content Size"]) == 4096
    assert 2 < float(small["Median Response Time"]) < 1000
    assert ("running", "256x256, 2 steps") in stats


def test_locust_counts_refusals_as_failures(tmp_path):
    with FakeServer(1, 50, more={"limits": {"max_queue": 1}}) as server:
        stats = run_locust(server, tmp_path, "-u", "6", "-r", "6", "-t", "2s")
        failures = (tmp_path / "locust_failures.csv").read_text()
    done = stats["done", "256x256, 4 steps"]
    assert 0 < int(done["Failure Count"]) < int(done["Request Count"])
    assert "RESOURCE_EXHAUSTED" in failures


def filled(value, number: int):
    """With ghz's templates filled in."""
    return json.loads(re.sub(r"\{\{\.RequestNumber\}\}", str(number), json.dumps(value)))


@pytest.fixture(scope="module")
def fake_server():
    with FakeServer(1, 0) as server:
        yield server


@pytest.mark.parametrize("path", sorted((LOAD / "ghz").glob("*.json")), ids=lambda path: path.stem)
def test_a_file_for_ghz_makes_calls_that_the_server_takes(path, fake_server):
    config = json.loads(path.read_text())
    assert config.keys() <= GHZ_KEYS
    assert (path.parent / config["proto"]).is_file()
    assert all((path.parent / folder).is_dir() for folder in config["import-paths"])
    for key in ("timeout", "duration", "load-step-duration", "concurrency-step-duration"):
        assert re.fullmatch(r"\d+(ms|s|m)", config.get(key, "1s")), key
    pb, _ = harness.api()
    service, method = config["call"].rsplit(".", 1)
    found = pb.DESCRIPTOR.services_by_name[service.removeprefix("patchflow.v1.")].methods_by_name[method]
    assert found.input_type.name == "GenerateImagesRequest"
    data = config["data"] if isinstance(config["data"], list) else [config["data"]]
    for number, request in enumerate(data):
        parsed = json_format.ParseDict(filled(request, number), pb.GenerateImagesRequest())
        result = harness.generate(fake_server, parsed)
        assert result.accepted.effective.steps == request["sampling"]["steps"]
        assert result.accepted.effective.seed == number


def plot(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, LOAD / "plot.py", *arguments], capture_output=True, text=True, timeout=100)


def test_a_sweep_is_drawn(tmp_path, fake_server):
    report = load(fake_server, "--rate", "50,100,200", "--duration", "1s", "--mix", "256x256:1")
    assert [row["rate_hz"] for row in report["rows"]] == [50, 100, 200]
    path: pathlib.Path = tmp_path / "sweep.json"
    path.write_text(json.dumps(report))
    out = tmp_path / "sweep.svg"
    done = plot("--out", out, f"fake={path}")
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert "<svg" in text and "requests arriving a second" in text
    path.write_text(json.dumps(report | {"rows": []}))
    nothing = plot("--out", out, path)
    assert nothing.returncode == 2 and "nothing to draw" in nothing.stderr
