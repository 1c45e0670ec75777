"""The level of the log reaches front end and workers, and no prompt is in it at any level unless the configuration asks."""

import json
import re
import subprocess
import time

import grpc
import harness
import pytest

PROMPT = "a red circle qzxprompt"
NEGATIVE = "blurry qzxnegative"
SERVER = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", "admin": "127.0.0.1:0"}


def lines(log: str) -> list[dict]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def request(width: int = 64, steps: int = 2):
    pb, _ = harness.api()
    return pb.GenerateImagesRequest(
        prompt=pb.Prompt(text=PROMPT, negative_text=NEGATIVE),
        image=pb.ImageSpec(width=width, height=64),
        sampling=pb.SamplingParams(steps=steps, seed=3),
    )


def messages(log: str, level: str) -> set[str]:
    return {line["msg"] for line in lines(log) if line["level"] == level}


def admin(server: harness.Server, *words: str):
    address = re.search(r'"admin":"([^"]+)"', server.log())[1]
    subprocess.run([harness.BIN / "patchflow", "admin", "--admin", address, *words], check=True, timeout=30)


def wait_for(condition, within_s: float = 20):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def fail_in_every_way(server: harness.Server):
    """Refused at admission; too long; and by a rank that throws, again and again, until the request counts as poison."""
    for wrong in (request(steps=100000), request(width=63)):
        with pytest.raises(grpc.RpcError):
            harness.generate(server, wrong)
    long = request()
    long.prompt.text = PROMPT * 2000
    with pytest.raises(grpc.RpcError):
        harness.generate(server, long)
    orders = re.search(r'"fault_orders":"([^"]+)"', server.log())[1]
    for _ in range(2):
        with open(orders, "w") as file:
            file.write("throw step 0")
        harness.generate(server, request())


def test_no_prompt_is_in_the_log_at_its_lowest_level(tmp_path):
    extra = {"server": SERVER, "log": {"level": "debug"}, "chaos": True, "black_box": {"directory": str(tmp_path / "boxes")}}
    with harness.Server([harness.Group(harness.BUNDLED)], extra) as server:
        server.wait_ready()
        harness.generate(server, request())
        fail_in_every_way(server)
        wait_for(lambda: len(list((tmp_path / "boxes").glob("*.json"))) >= 2)
        log = server.log()
    debug = messages(log, "debug")
    assert {"worker is", "image made", "job begins", "job goes to group"} <= debug, debug
    image = next(line for line in lines(log) if line["msg"] == "image made")
    assert re.fullmatch(r"\S{8,}", image["request_id"])
    assert image["steps"] == 2 and image["denoise_seconds"] > 0 and image["width_px"] == 64
    written = log + "".join(box.read_text() for box in (tmp_path / "boxes").iterdir())
    assert "qzx" not in written, re.search(r".*qzx.*", written)[0]


def test_prompts_are_in_the_log_if_the_configuration_asks():
    with harness.Server([harness.Group(harness.BUNDLED)], {"log": {"prompts": True}}) as server:
        server.wait_ready()
        harness.generate(server, request())
        wait_for(lambda: "qzxprompt" in server.log())  # Lines are written behind the request.
        assert not messages(server.log(), "debug")


def test_the_level_changes_at_run_time_in_workers_of_this_host_and_of_others(tmp_path):
    remote_log = tmp_path / "remote.log"
    socket = tmp_path / "socket"
    command = [harness.BIN / "patchflow-worker", "--model", harness.BUNDLED, "--device", "cpu", "--socket", socket,
               "--log-level", "error"]
    groups = [harness.Group(harness.BUNDLED, "near", "near").config(),
              {"name": "far", "model_name": "far", "workers": [f"unix:{socket}"]}]
    with remote_log.open("w") as out, subprocess.Popen(command, stderr=out) as remote:
        try:
            with harness.Server([], {"server": SERVER, "groups": groups}) as server:
                server.wait_ready(models=2)
                assert not messages(server.log(), "debug") and not messages(remote_log.read_text(), "debug")
                wait_for(lambda: "log level" in remote_log.read_text())  # From error to the front end's info.
                admin(server, "log-level", "debug")
                wait_for(lambda: '"now":"debug"' in remote_log.read_text() and '"now":"debug"' in server.log())
                for model in ("near", "far"):
                    asked = request()
                    asked.model = model
                    harness.generate(server, asked)
                wait_for(lambda: "image made" in messages(remote_log.read_text(), "debug"))
                wait_for(lambda: "image made" in messages(server.log(), "debug"))
                admin(server, "log-level", "error")
                changed = '"now":"error","before":"debug"'
                wait_for(lambda: changed in remote_log.read_text() and changed in server.log())
                before = len(lines(remote_log.read_text()))
                harness.generate(server, asked)
                time.sleep(1)
                assert len(lines(remote_log.read_text())) == before
        finally:
            remote.terminate()
            remote.wait(30)
    assert "qzx" not in remote_log.read_text()
