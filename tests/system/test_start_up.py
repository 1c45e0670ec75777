"""What can't work is refused when the server starts: with the reason on stderr, a non-zero exit code, and soon."""

import json
import pathlib
import shutil
import socket
import struct
import subprocess

import harness
import pytest

WITHIN_S = 60


def run_server(config, tmp_path: pathlib.Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a server that is to end by itself."""
    path = tmp_path / "config.yaml"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    command = [harness.BIN / "patchflow-server", *(arguments or ("--config", path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


def config_of(model: pathlib.Path, **server) -> dict:
    listen = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0"} | server
    return {"server": listen, "groups": [{"model": str(model), "device": "cpu"}]}


def test_a_configuration_file_that_is_not_there(tmp_path):
    code, output = run_server({}, tmp_path, "--config", str(tmp_path / "absent.yaml"))
    assert code == 2 and "absent.yaml" in output


@pytest.mark.parametrize(
    "text, line, key",
    [
        ("server: {listen: '127.0.0.1:0'}\ngroups:\n  - {model: m, rank: 2}\n", 3, "rank"),
        ("server:\n  listen: []\ngroups: [{model: m}]\n", 2, "listen"),
        ("groups:\n  - model: m\n    ranks: 0\n", 3, "ranks"),
        ("groups:\n  - model: m\n    layout: {pipefusion: many}\n", 3, "pipefusion"),
        ("limits: {max_count: -1}\ngroups: [{model: m}]\n", 1, "max_count"),
        ("groups: [}\n", 1, ""),
    ],
)
def test_a_wrong_configuration_is_refused_with_line_and_key(tmp_path, text, line, key):
    code, output = run_server(text, tmp_path)
    assert code == 2
    assert f"config.yaml:{line}:" in output and key in output


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, output = run_server(config_of(harness.BUNDLED, listen=address), tmp_path)
        assert code == 1 and address in output
        code, output = run_server(config_of(harness.BUNDLED, metrics=address), tmp_path)
        assert code == 1 and address in output


def test_a_worker_program_that_is_not_there(tmp_path):
    config = config_of(harness.BUNDLED) | {"worker_binary": str(tmp_path / "no-worker")}
    code, output = run_server(config, tmp_path)
    assert code != 0 and "no-worker" in output


def test_a_model_folder_that_is_not_there(tmp_path):
    code, output = run_server(config_of(tmp_path / "no-model"), tmp_path)
    assert code != 0 and "no-model" in output


@pytest.fixture
def model(tmp_path) -> pathlib.Path:
    """A copy of the bundled model that may be damaged."""
    return pathlib.Path(shutil.copytree(harness.BUNDLED, tmp_path / "model"))


def lying_header(path: pathlib.Path) -> None:
    """The first tensor's end is moved beyond the file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    name = next(key for key in header if key != "__metadata__")
    header[name]["data_offsets"][1] += 1 << 40
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def change_json(path: pathlib.Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


VAE = "vae/diffusion_pytorch_model.safetensors"
DAMAGES = {
    "a missing component": (lambda m: shutil.rmtree(m / "vae"), ["vae"]),
    "missing weights": (lambda m: (m / VAE).unlink(), ["vae"]),
    "a missing tokenizer": (lambda m: (m / "tokenizer/spiece.model").unlink(), ["spiece.model"]),
    "truncated weights": (lambda m: (m / VAE).write_bytes((m / VAE).read_bytes()[:100_000]), ["vae"]),
    "a header that lies": (lambda m: lying_header(m / VAE), ["vae"]),
    "an empty file": (lambda m: (m / VAE).write_bytes(b""), ["vae"]),
    "wrong shapes": (lambda m: change_json(m / "transformer/config.json", num_attention_heads=3), ["transformer"]),
    "wrong JSON": (lambda m: (m / "transformer/config.json").write_text('{"a": '), ["transformer/config.json"]),
    "an unknown class": (lambda m: change_json(m / "transformer/config.json", _class_name="Unet"), ["_class_name"]),
    "two faults at once": (
        lambda m: ((m / VAE).unlink(), change_json(m / "text_encoder/config.json", d_ff=17)),
        ["vae", "text_encoder"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_by_name(model, tmp_path, damage):
    harm, named = DAMAGES[damage]
    harm(model)
    code, output = run_server(config_of(model), tmp_path)
    assert code == 1
    for name in named:
        assert name in output
    assert "terminate called" not in output and "Segmentation" not in output
