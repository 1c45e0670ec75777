"""`patchflow-server --check` refuses what would not start, in the words of the part that refuses it, and starts nothing."""

import json
import shutil
import socket
import subprocess

import pytest
from harness import BIN, BUNDLED

WITHIN_S = 60


def run_server(tmp_path, config: dict, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a server that ends by itself."""
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config))
    command = [BIN / "patchflow-server", "--config", path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


def config_of(server: dict | None = None, **group) -> dict:
    listen = {"listen": "127.0.0.1:0"}
    return {"server": listen | (server or {}), "groups": [{"model": str(BUNDLED), "device": "cpu"} | group]}


def rows_of(output: str, verdict: str) -> dict[str, str]:
    """The texts of the rows with this verdict, by what they are about."""
    rows = [line.split(maxsplit=2) for line in output.splitlines() if line.startswith(verdict)]
    return {row[1]: row[2] for row in rows}


def check(tmp_path, config: dict) -> tuple[int, str]:
    before = set(tmp_path.iterdir()) | {tmp_path / "config.yaml"}
    result = run_server(tmp_path, config, "--check")
    assert set(tmp_path.iterdir()) == before, "something was written"
    return result


REFUSED_BY_WORKER = [
    ({"ranks": 3, "layout": {"ulysses": 3}}, "layout: ulysses: 4 heads can't be divided over 3 ranks"),
    ({"ranks": 5, "layout": {"tensor": 5}}, "layout: tensor: 5 ranks for 4 heads"),
    (
        {"ranks": 2, "layout": {"pipefusion": 2, "blocks": [1, 500]}},
        "layout: blocks: 1+500 is 501 blocks, the model has 8",
    ),
    (
        {"ranks": 4, "layout": {"distrifusion": 2, "ring": 2}},
        "layout: distrifusion already divides the tokens: it can't be combined with pipefusion, ulysses or ring",
    ),
    ({"ranks": 2, "layout": {"tensor": 2, "patches": 2}}, "patches and blocks mean nothing without pipefusion"),
    ({"ranks": 2, "processes": 2, "layout": {"pipefusion": 2, "warmup_steps": 0}}, "warmup_steps: 0 is less than 1"),
    ({"ranks": 2, "layout": {"pipefusion": 2, "patches": 500}}, "divides an image into 500 shares"),
    ({"warmup": ["100x100"]}, "100x100: width 100 is not a multiple of 16"),
    ({"warmup": ["4096x2048"]}, "4096x2048: 8388608 pixels are above the limit of 4194304"),
    ({"dtype": "float16"}, "--dtype: float16: CPUs compute in float32 alone"),
]


@pytest.mark.parametrize("group, words", REFUSED_BY_WORKER, ids=lambda value: str(value)[:50])
def test_what_the_worker_refuses_is_refused(tmp_path, group, words):
    config = config_of(**group)
    code, output = check(tmp_path, config)
    assert code == 1
    (what, text), *others = rows_of(output, "BAD").items()
    assert what == "groups[shapes-256].worker" and words in text and not others, output
    memory = [row for row in rows_of(output, "ok") if ".memory" in row]
    assert bool(memory) == ("dtype" in group), "what doesn't fit needs no memory"
    code, output = run_server(tmp_path, config)
    assert code == 1 and words in output, "it starts"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "listen, other",
    [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "localhost"), ("127.0.0.1", "0.0.0.0"), ("[::]", "127.0.0.1")],
)
@pytest.mark.parametrize("key", ["metrics", "health"])
def test_addresses_of_one_port_are_refused(tmp_path, listen, other, key):
    port = free_port()
    config = config_of({"listen": f"{listen}:{port}", key: f"{other}:{port}"})
    code, output = check(tmp_path, config)
    assert code == 1
    assert rows_of(output, "BAD") == {
        f"server.{key}": f"{other}:{port} overlaps with server.listen, {listen}:{port}"
    }, output
    code, output = run_server(tmp_path, config)
    assert code == 1 and f"server.{key}: cannot listen on {other}:{port}" in output, "it starts"


def test_what_can_start_passes(tmp_path):
    port = free_port()
    server = {"listen": f"127.0.0.1:{port}", "metrics": f"127.0.0.2:{port}", "health": "127.0.0.1:0"}
    group = {"ranks": 2, "layout": {"pipefusion": 2, "blocks": [3, 5]}, "warmup": ["64x32"]}
    code, output = check(tmp_path, config_of(server, **group))
    assert code == 0, output
    good = rows_of(output, "ok")
    assert good["groups[shapes-256].worker"] == (
        "takes it: device cpu, dtype float32, layout pipefusion=2,patches=4,warmup_steps=1,blocks=3+5"
    )
    assert "64x32  rank" in good["groups[shapes-256].memory"]
    assert not rows_of(output, "BAD") and not rows_of(output, "warn")


def test_without_a_worker_the_rest_is_looked_at(tmp_path):
    config = config_of(ranks=3, layout={"ulysses": 3}) | {"worker_binary": str(tmp_path / "absent")}
    code, output = check(tmp_path, config)
    assert code == 1
    assert list(rows_of(output, "BAD")) == ["worker_binary"]
    assert list(rows_of(output, "warn")) == ["groups[shapes-256].worker"]
    assert "groups[shapes-256].memory" in rows_of(output, "ok")


def test_a_worker_that_ends_otherwise_is_told(tmp_path):
    config = config_of() | {"worker_binary": shutil.which("false")}
    code, output = check(tmp_path, config)
    assert code == 1 and rows_of(output, "BAD") == {"groups[shapes-256].worker": "exit status 1"}
