"""A server makes an image of every size that `warmup` lists before its model is ready, and refuses a size that it can't make."""

import json
import socket
import subprocess

import harness
from harness import BIN, BUNDLED

SIZES = ["128x64", "64x128"]
WITHIN_S = 60


def config_of(**group) -> dict:
    return {"groups": [{"model": str(BUNDLED), "device": "cpu"} | group]}


def lines_of(log: str, message: str) -> list[dict]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["msg"] == message]


def run_server(tmp_path, config: dict, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a server that ends by itself."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"server": {"listen": "127.0.0.1:0"}} | config))
    command = [BIN / "patchflow-server", "--config", path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


def check_warmed(server: harness.Server, processes: int):
    log = server.wait_ready().log()
    warmed, loaded = lines_of(log, "warmed up"), lines_of(log, "loaded")
    assert sorted(line["size"] for line in warmed) == sorted(SIZES * processes)
    assert len(loaded) == processes
    in_all, in_parts = sum(line["warmup_seconds"] for line in loaded), sum(line["seconds"] for line in warmed)
    assert in_all >= in_parts > 0


def test_every_size_is_made_before_the_model_is_ready():
    with harness.Server([], config_of(warmup=SIZES)) as server:
        check_warmed(server, processes=1)


def test_ranks_of_two_processes_warm_up_together():
    group = config_of(warmup=SIZES, ranks=2, processes=2, layout={"pipefusion": 2})
    with harness.Server([], group) as server:
        check_warmed(server, processes=2)


def test_without_the_key_one_size_is_made():
    with harness.Server([], config_of()) as server:
        assert [line["size"] for line in lines_of(server.wait_ready().log(), "warmed up")] == ["256x256"]


def test_a_size_that_the_model_cannot_make_ends_the_start(tmp_path):
    code, output = run_server(tmp_path, config_of(warmup=["64x64", "64x100"]))
    assert code == 1
    assert "64x100: height 100 is not a multiple of " in output
    assert not lines_of(output, "warmed up")


def test_a_size_above_the_limit_of_cpus_ends_the_start(tmp_path):
    code, output = run_server(tmp_path, config_of(warmup=["4096x2048"]))
    assert code == 1 and "4096x2048: 8388608 pixels are above the limit of 4194304" in output


def test_a_wrong_list_is_refused_with_line_and_key(tmp_path):
    code, output = run_server(tmp_path, config_of(warmup=["64x64", "64"]))
    assert code == 2 and "groups[0].warmup: '64' is not WIDTHxHEIGHT" in output


def test_check_shows_the_sizes(tmp_path):
    code, output = run_server(tmp_path, config_of(warmup=SIZES), "--check")
    assert code == 0 and all(f".memory {size} " in output for size in SIZES)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class RemoteGroup:
    """Two workers of one group, started by hand, each with a list of its own."""

    def __init__(self, lists: list[str]):
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in lists]
        flags = "--device cpu --ranks 1 --group-ranks 2 --threads 1 --layout pipefusion=2".split()
        command = [BIN / "patchflow-worker", "--model", BUNDLED, "--plaintext", *flags]
        self.workers = [
            subprocess.Popen([*command, "--listen", address, "--warm-up", sizes], stderr=subprocess.PIPE, text=True)
            for address, sizes in zip(self.addresses, lists)
        ]

    def config(self) -> dict:
        return {"model_name": "shapes", "workers": self.addresses}

    def kill(self):
        for worker in self.workers:
            worker.kill()
            worker.communicate()


def test_hosts_of_one_group_with_other_lists_are_refused_in_words():
    group = RemoteGroup(["64x64,128x64", "64x64"])
    try:
        with harness.Server([group]):
            logs = [worker.communicate(timeout=WITHIN_S)[1] for worker in group.workers]
    finally:
        group.kill()
    assert "--warm-up: this worker is to make 64x64,128x64 at guidance" in logs[0]
    assert "--warm-up: this worker is to make 64x64 at guidance" in logs[1]
    for log in logs:
        assert "as 1 of the group's 2 ranks" in log and not lines_of(log, "warmed up")
