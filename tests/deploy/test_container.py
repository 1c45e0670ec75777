"""The images, built for CPUs by deploy/container/build on a Debian made with mmdebstrap: no registry, no daemon."""

import base64
import contextlib
import functools
import json
import pathlib
import signal
import subprocess
import tempfile
import time
import urllib.request

import harness
import pytest
from monitoring import free_port, get
from tools import DEPLOY, GET_TOOLS, TOP, run

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]
BUILD_TIMEOUT_S = 5000
TAG = "test"
UID = 10001
SIZE_LIMIT_BYTES = {"frontend": 400 << 20, "worker": 6 << 30, "web": 400 << 20}
# Started in a mount namespace of its own: the image's root read-only, /tmp and /dev/shm in memory, the model at /models.
IN_IMAGE = """
set -e
root=$1; model=$2; config=$3; shift 3
mount --bind "$root" "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mkdir "$root/tmp/models" "$root/tmp/config"
mount --bind "$model" "$root/tmp/models"
cp "$config" "$root/tmp/config/config.yaml"
chmod 1777 "$root/tmp"; chmod 755 "$root/tmp/config"; chmod 644 "$root/tmp/config/config.yaml"
mount -o remount,ro,bind "$root"
mount -o remount,ro,bind "$root/tmp/models"
exec chroot --userspec=10001:10001 "$root" /usr/bin/env -i PATH=/opt/patchflow/bin:/usr/bin:/bin "$@"
"""


class Image:
    def __init__(self, target: str, commit: str):
        self.name = f"patchflow-{target}:{TAG}"
        self.target = target
        self.commit = commit

    def inspect(self) -> dict:
        return json.loads(run("buildah", "inspect", "--type", "image", f"localhost/{self.name}").stdout)["OCIv1"]

    @contextlib.contextmanager
    def mounted(self):
        """Its root file system, as a folder here."""
        container = run("buildah", "from", f"localhost/{self.name}").stdout.strip()
        try:
            yield pathlib.Path(run("buildah", "mount", container).stdout.strip())
        finally:
            run("buildah", "rm", container)


@functools.cache
def head() -> str:
    return run("git", "-C", TOP, "rev-parse", "HEAD").stdout.strip()


def unmount_below(folder: str):
    """What the storage driver, or a build that was interrupted, left mounted."""
    mounted = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    for place in reversed([place for place in mounted if place.startswith(folder + "/")]):
        run("umount", "--lazy", place)


@pytest.fixture(scope="module")
def storage():
    """Images and containers of this test alone, about 15 GB while it runs."""
    run(GET_TOOLS, "--container", timeout=600)
    with tempfile.TemporaryDirectory(prefix="patchflow-images-", dir="/var/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        config = pathlib.Path(folder, "storage.conf")
        config.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
        patch.setenv("CONTAINERS_STORAGE_CONF", str(config))
        try:
            yield
        finally:
            unmount_below(folder)


def build(target: str) -> Image:
    """With all that it started ended, if it is late."""
    commit = head()
    command = [DEPLOY / "container" / "build", "--mmdebstrap", "--tag", TAG, "--commit", commit, target]
    run("timeout", "--kill-after=60", BUILD_TIMEOUT_S, *command, timeout=BUILD_TIMEOUT_S + 90)
    return Image(target, commit)


@pytest.fixture(scope="module", params=["frontend", "worker"])
def image(request, storage) -> Image:
    return build(request.param)


@pytest.fixture(scope="module")
def web(storage) -> Image:
    return build("web")


def test_it_runs_the_right_program_as_nobody_in_particular(image):
    config = image.inspect()["config"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == [{"frontend": "patchflow-server", "worker": "patchflow-worker"}[image.target]]
    assert config["Labels"]["org.opencontainers.image.revision"] == image.commit


def test_it_holds_what_it_runs_and_nothing_to_build_with(image):
    with image.mounted() as root:
        programs = {path.name for path in (root / "opt/patchflow/bin").iterdir()}
        assert programs == {"patchflow-server", "patchflow"} | ({"patchflow-worker"} if image.target == "worker" else set())
        for tool in ("gcc", "c++", "cmake", "python3", "git", "pip"):
            assert not (root / "usr/bin" / tool).exists(), tool
        assert not list(root.rglob("*.safetensors")) and not (root / "src").exists()
        assert any((root / "opt/patchflow/lib").glob("libtorch*")) == (image.target == "worker")
        size = int(run("du", "-sb", root).stdout.split()[0])
        assert size < SIZE_LIMIT_BYTES[image.target], f"{size >> 20} MiB"
        print(f"{image.name}: {size >> 20} MiB")


def set_user_bits(root: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in (root / "opt").rglob("*") if path.stat().st_mode & 0o6000]


def test_what_we_put_in_belongs_to_root_and_is_not_writable(image):
    with image.mounted() as root:
        assert not set_user_bits(root)
        ours = list((root / "opt/patchflow").rglob("*"))
        assert ours
        for path in ours:
            assert path.stat().st_uid == 0 and not path.stat().st_mode & 0o022, path
        state = (root / "var/lib/patchflow").stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (UID, UID, 0o750), "a volume's owner"


def start_in(root: pathlib.Path, config: pathlib.Path, *command) -> subprocess.Popen:
    return subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", IN_IMAGE, "bash", root, harness.BUNDLED, config, *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )


def wait_for(process: subprocess.Popen, url: str):
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"no 200 from {url} in 120 s"
        with contextlib.suppress(OSError):
            get(url)
            return
        time.sleep(0.2)


def runs_as_nobody_in_particular(process: subprocess.Popen) -> bool:
    return f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}" in pathlib.Path(f"/proc/{process.pid}/status").read_text()


def test_it_draws_with_its_root_read_only(image, tmp_path):
    """The worker's image starts its worker itself; the front end's has none, and says that it is live and not ready."""
    port, metrics = free_port(), free_port()
    config = {"server": {"listen": f"127.0.0.1:{port}", "metrics": f"127.0.0.1:{metrics}"}}
    if image.target == "worker":
        config["groups"] = [{"model": "/tmp/models", "model_name": "shapes", "device": "cpu"}]
    else:
        config["groups"] = [{"model_name": "shapes", "workers": [f"127.0.0.1:{free_port()}"]}]
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with image.mounted() as root:
        process = start_in(root, tmp_path / "config.yaml", "patchflow-server", "--config", "/tmp/config/config.yaml")
        try:
            wanted = "/readyz" if image.target == "worker" else "/healthz"
            wait_for(process, f"http://127.0.0.1:{metrics}{wanted}")
            assert runs_as_nobody_in_particular(process)
            assert (pathlib.Path(f"/proc/{process.pid}/root") / "opt/patchflow/bin").exists()
            if image.target == "worker":
                client = ["generate", "--server", f"127.0.0.1:{port}", "--steps", "3", "--out", tmp_path / "image.png", "a red heart"]
                run(harness.BIN / "patchflow", *client)
                assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")
        finally:
            process.terminate()
            process.wait(60)
        assert process.returncode == 0, process.stderr.read()


def test_the_page_holds_what_it_runs_and_nobody_may_change_it(web):
    config = web.inspect()["config"]
    assert config["User"] == f"{UID}:{UID}" and config["Entrypoint"] == ["patchflow-web", "--listen", "0.0.0.0:8080"]
    assert config["Labels"]["org.opencontainers.image.revision"] == web.commit
    with web.mounted() as root:
        for tool in ("gcc", "c++", "cmake", "git", "pip"):
            assert not (root / "usr/bin" / tool).exists(), tool
        assert not set_user_bits(root) and not (root / "src").exists()
        ours = [path for path in (root / "opt/patchflow-web").rglob("*") if not path.is_symlink()]
        assert ours
        for path in ours:
            assert path.stat().st_uid == 0 and not path.stat().st_mode & 0o022, path
        size = int(run("du", "-sb", root).stdout.split()[0])
        assert size < SIZE_LIMIT_BYTES["web"], f"{size >> 20} MiB"
        print(f"{web.name}: {size >> 20} MiB")


def test_the_page_draws_by_a_server_beside_it_with_its_root_read_only(web, server, tmp_path):
    port = free_port()
    (tmp_path / "config.yaml").touch()
    flags = ["--server", server.address, "--listen", f"127.0.0.1:{port}"]
    with web.mounted() as root:
        process = start_in(root, tmp_path / "config.yaml", "/opt/patchflow-web/bin/patchflow-web", *flags)
        try:
            wait_for(process, f"http://127.0.0.1:{port}/readyz")
            assert runs_as_nobody_in_particular(process)
            assert "<html" in get(f"http://127.0.0.1:{port}/")
            body = json.dumps({"prompt": "a red heart", "size": "256x256", "steps": 3}).encode()
            call = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/images/generations", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(call, timeout=120) as answer:
                drawn = json.load(answer)["data"][0]["b64_json"]
            assert base64.b64decode(drawn).startswith(b"\x89PNG")
        finally:
            process.terminate()
            process.wait(60)
        # Uvicorn has closed everything by then, and ends by the signal that it was sent.
        assert process.returncode == -signal.SIGTERM, process.stderr.read()
