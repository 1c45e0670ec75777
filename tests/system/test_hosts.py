"""Groups over several worker processes, as over several hosts: the bytes of one process, and no request lost with a process."""

import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time

import grpc
import harness
import pytest

LAYOUTS = {
    "ulysses": {"ulysses": 2},
    "pipefusion": {"pipefusion": 2, "patches": 4, "warmup_steps": 1},
}
STEPS = 6
LONG_STEPS = 40
WAIT_S = 60
DEVICE = os.environ.get("PATCHFLOW_TEST_DEVICE", "cpu")  # cuda: a GPU for each worker, over NCCL.


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Hosts:
    """Workers with one rank each, on a port each, started again when they end, as pods are."""

    def __init__(self, layout: dict, name: str, group_ranks: int = 2, count: int = 2):
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self.name = name
        words = ",".join(f"{key}={value}" for key, value in layout.items())
        flags = f"--device {DEVICE} --ranks 1 --group-ranks {group_ranks} --threads 1 --layout {words}".split()
        self.command = [str(harness.BIN / "patchflow-worker"), "--model", str(harness.BUNDLED), *flags]
        self.log = tempfile.NamedTemporaryFile(mode="r", prefix="patchflow-hosts-")
        self.starts = [0] * count
        self.processes: list[subprocess.Popen] = [None] * count
        self.ending = threading.Event()
        self.keepers = [threading.Thread(target=self._keep, args=(i,)) for i in range(count)]
        for keeper in self.keepers:
            keeper.start()

    def _keep(self, i: int):
        while not self.ending.is_set():
            with open(self.log.name, "a") as log:
                place = ["--listen", self.addresses[i], "--plaintext", "--first-gpu", str(i)]
                self.processes[i] = subprocess.Popen([*self.command, *place], stderr=log)
            self.starts[i] += 1
            while self.processes[i].poll() is None and not self.ending.wait(0.02):
                pass
        self.processes[i].kill()
        self.processes[i].wait()

    def config(self) -> dict:
        return {"name": self.name, "model_name": self.name, "workers": self.addresses}

    def log_text(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def kill(self, i: int):
        self.processes[i].send_signal(signal.SIGKILL)

    def close(self):
        self.ending.set()
        for keeper in self.keepers:
            keeper.join()
        self.log.close()


class Local(harness.Group):
    """A group that the server starts in several processes."""

    def config(self) -> dict:
        return super().config() | {"processes": self.ranks}


def request(model: str, steps: int = STEPS, **fields):
    pb, _ = harness.api()
    asked = pb.GenerateImagesRequest(model=model, prompt=pb.Prompt(text="a red circle above a cat"), **fields)
    asked.sampling.steps, asked.sampling.seed, asked.sampling.guidance_scale = steps, 3, 4.5
    asked.output.format = pb.IMAGE_FORMAT_RAW_RGB8
    return asked


def draw(server, model: str, steps: int = STEPS, count: int = 1) -> bytes:
    asked = request(model, steps)
    asked.image.count = count
    images = harness.generate(server, asked, timeout_s=120).images
    assert len(set(images)) == count
    return b"".join(images)


def said(server, msg: str, **fields) -> list[dict]:
    """The log's lines with this message and these fields."""
    return lines_of(server.log(), msg, **fields)


def lines_of(log: str, msg: str, **fields) -> list[dict]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in lines if line.get("msg") == msg and all(line.get(key) == value for key, value in fields.items())]


def eventually(holds, wait_s: float = WAIT_S):
    until = time.monotonic() + wait_s
    while not holds():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def hosts():
    running = Hosts(LAYOUTS["ulysses"], "hosts")
    yield running
    running.close()


@pytest.fixture(scope="module")
def running(hosts):
    groups = [hosts]
    for name, layout in LAYOUTS.items():
        for make, model in ((harness.Group, f"one-{name}"), (Local, f"two-{name}")):
            groups.append(make(harness.BUNDLED, model_name=model, name=model, ranks=2, layout=layout, device=DEVICE))
    with harness.Server(groups, {"supervision": {"heartbeat_interval": "100ms", "heartbeat_timeout": "1s"}}) as server:
        yield server.wait_ready(len(groups))


@pytest.mark.parametrize("name", LAYOUTS)
def test_processes_make_the_bytes_of_one(running, name):
    assert draw(running, f"two-{name}", count=2) == draw(running, f"one-{name}", count=2)


def test_hosts_make_the_bytes_of_one(running):
    assert draw(running, "hosts") == draw(running, "one-ulysses")


def start_long(server, model: str, request_id: str = ""):
    """A call whose third step is done."""
    call = server.stub.GenerateImages(request(model, LONG_STEPS, request_id=request_id), timeout=120)
    for message in call:
        if message.WhichOneof("event") == "progress" and message.progress.step >= 3:
            return call
    raise AssertionError("it ended before its third step")


def rest_of(call) -> bytes:
    return b"".join(message.image_chunk.data for message in call if message.WhichOneof("event") == "image_chunk")


@pytest.mark.parametrize("member", [0, 1])
def test_a_killed_host_costs_a_pause_and_no_byte(running, hosts, member):
    expected = draw(running, "one-ulysses", LONG_STEPS)
    starts = sum(hosts.starts)
    losses = len(said(running, "worker lost", group="hosts"))
    call = start_long(running, "hosts")
    hosts.kill(member)
    assert rest_of(call) == expected
    assert len(said(running, "worker lost", group="hosts")) == losses + 1, "one incarnation was lost, and as a whole"
    assert sum(hosts.starts) == starts + 2, "the survivor left too"
    epochs = [line["epoch"] for line in said(running, "group joins", group="hosts")]
    assert epochs == sorted(set(epochs)) and len(epochs) >= 2


def local_pids(server, group: str) -> list[int]:
    return [line["pid"] for line in said(server, "worker started", group=group)][-2:]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_local_process_takes_the_other_with_it_and_both_come_back(running, blow):
    expected = draw(running, "one-pipefusion", LONG_STEPS)
    pids = local_pids(running, "two-pipefusion")
    call = start_long(running, "two-pipefusion")
    os.kill(pids[1], blow)
    assert rest_of(call) == expected
    assert not set(pids) & set(local_pids(running, "two-pipefusion"))
    for pid in pids:
        eventually(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))


@pytest.mark.parametrize("model", ["hosts", "two-pipefusion"])
def test_a_cancelled_job_stops_on_all_and_leaves_them_as_good_as_before(running, hosts, model):
    losses = len(said(running, "worker lost"))
    for round in range(3):
        request_id = f"cancel-{model}-{round}"
        call = start_long(running, model, request_id)
        call.cancel()

        def ends(request_id=request_id):
            log = hosts.log_text() if model == "hosts" else running.log()
            return [line["code"] for line in lines_of(log, "job ended", request_id=request_id)]

        eventually(lambda: len(ends()) == 2)
        assert ends() == ["CANCELLED", "CANCELLED"]
        image = draw(running, model)
    assert image == draw(running, "one-ulysses" if model == "hosts" else "one-pipefusion")
    assert len(said(running, "worker lost")) == losses, "no worker was given up"


def test_a_storm_of_cancels_loses_no_worker(running):
    expected = draw(running, "two-pipefusion", count=2)
    losses = len(said(running, "worker lost"))
    dice = random.Random(7)
    for _ in range(20):
        asked = request("two-pipefusion", LONG_STEPS)
        asked.image.count = 2
        call = running.stub.GenerateImages(asked, timeout=120)
        time.sleep(dice.random() * dice.choice((0.02, 0.3, 1)))
        call.cancel()
    assert draw(running, "two-pipefusion", count=2) == expected
    assert len(said(running, "worker lost")) == losses


def test_a_front_end_that_starts_anew_takes_the_group_over():
    hosts = Hosts(LAYOUTS["ulysses"], "hosts")
    try:
        with harness.Server([hosts]) as server:
            image = draw(server.wait_ready(), "hosts")
        with harness.Server([hosts]) as server:
            assert draw(server.wait_ready(), "hosts") == image
            assert said(server, "group taken over") and not said(server, "group joins")
        assert hosts.starts == [1, 1]
    finally:
        hosts.close()


def test_a_front_end_that_is_killed_in_mid_job_leaves_a_group_to_take_over():
    hosts = Hosts(LAYOUTS["ulysses"], "hosts")
    try:
        with harness.Server([hosts]) as server:
            image = draw(server.wait_ready(), "hosts")
            start_long(server, "hosts", "orphan")
            server.process.kill()
        with harness.Server([hosts]) as server:
            assert draw(server.wait_ready(), "hosts") == image
            assert said(server, "group taken over")
            assert said(server, "worker lost") == []
        ends = [line["code"] for line in lines_of(hosts.log_text(), "job ended", request_id="orphan")]
        assert ends == ["OK", "OK"], "nobody asked to stop it on both"
        assert hosts.starts == [1, 1]
    finally:
        hosts.close()


def test_workers_that_do_not_fit_together_are_named():
    hosts = Hosts({"ulysses": 2, "guidance": 2}, "hosts", group_ranks=4)
    try:
        with harness.Server([hosts]) as server:
            eventually(lambda: said(server, "worker lost"))
            why = said(server, "worker lost")[0]["why"]
            assert "--group-ranks 4" in why and "2 ranks together" in why
            with pytest.raises(grpc.RpcError):
                draw(server, "hosts")
    finally:
        hosts.close()
