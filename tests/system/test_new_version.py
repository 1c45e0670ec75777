"""An operator loads other weights of a served model: nothing that was accepted is lost, and a failure changes nothing."""

import concurrent.futures
import json
import pathlib
import shutil
import subprocess
import threading

import harness
import pytest

ADMIN = {"server": {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "admin": "127.0.0.1:0"}}


@pytest.fixture
def server():
    with harness.Server([harness.Group(harness.BUNDLED)], ADMIN) as running:
        yield running.wait_ready()


@pytest.fixture
def other_weights(tmp_path) -> pathlib.Path:
    """The bundled model with one weight that is a little different."""
    folder = tmp_path / "other"
    shutil.copytree(harness.BUNDLED, folder)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(vae.read_bytes())
    data[-4] ^= 1  # The lowest bit of its mantissa, or of the half before.
    vae.write_bytes(data)
    return folder


def admin(server, *words: str, expect: int = 0):
    command = [harness.BIN / "patchflow", "admin", "--admin", server._bound("admin"), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == expect, done.stderr + server.log()
    return json.loads(done.stdout) if expect == 0 or done.stdout else done.stderr


def request(seed: int):
    pb, _ = harness.api()
    asked = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red star"))
    asked.sampling.steps, asked.sampling.seed = 4, seed
    return asked


def digest(server) -> str:
    pb, _ = harness.api()
    return server.stub.GetModel(pb.GetModelRequest(name="shapes-256"), timeout=10).model.digest


def test_a_new_version_takes_over_under_load(server, other_weights):
    old_digest, old_plan = digest(server), harness.generate(server, request(0)).accepted.plan_digest
    over, plans, lock = threading.Event(), [], threading.Lock()

    def client(first_seed: int):
        seed = first_seed
        while not over.is_set():
            result = harness.generate(server, request(seed))  # Raises for any status but OK.
            assert len(result.images) == 1
            with lock:
                plans.append(result.accepted.plan_digest)
            seed += 1

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(client, 1000 * i) for i in range(3)]
        load = admin(server, "load", str(other_weights))
        over.set()
        for running in clients:
            running.result(timeout=120)
    new_plan = harness.generate(server, request(0)).accepted.plan_digest
    assert load["state"] == "LOAD_STATE_DONE" and load["ended_unfinished"] == 0
    assert load["old_plan_digests"] == [old_plan] and load["new_plan_digests"] == [new_plan]
    assert new_plan != old_plan and digest(server) != old_digest
    assert set(plans) <= {old_plan, new_plan} and old_plan in plans
    (worker,) = admin(server, "workers")["workers"]
    assert (worker["folder"], worker["role"], worker["state"]) == (str(other_weights), "current", "serving")


def test_what_cannot_be_loaded_changes_nothing(server, other_weights):
    before, image = digest(server), harness.generate(server, request(3)).images[0]
    config = other_weights / "transformer" / "config.json"
    changed = json.loads(config.read_text())
    changed["num_layers"] += 1
    config.write_text(json.dumps(changed))
    load = admin(server, "load", str(other_weights), expect=1)
    assert load["state"] == "LOAD_STATE_FAILED" and load["failure"]
    (other_weights / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    refused = admin(server, "load", str(other_weights), expect=3)
    assert "folder" in refused and "safetensors" in refused
    assert digest(server) == before and harness.generate(server, request(3)).images[0] == image
    assert server.process.poll() is None
