"""Makes the API's modules, patchflow.v1, from the .proto when the package is built; pyproject.toml has the rest."""

import pathlib
import shutil
import subprocess
import sys
from importlib.metadata import version

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
PROTO = "patchflow/v1/image_generation.proto"


def proto_root() -> pathlib.Path:
    """Beside this file in a source distribution, at the top of the repository otherwise."""
    for root in (HERE / "proto", HERE.parents[1] / "proto"):
        if (root / PROTO).exists():
            return root
    raise SystemExit(f"patchflow-client: {PROTO} is neither in proto/ nor in ../../proto/")


class BuildWithStubs(build_py):
    def run(self):
        super().run()
        out = HERE / "src" if self.editable_mode else pathlib.Path(self.build_lib)
        out.mkdir(parents=True, exist_ok=True)
        # In a process of its own: two versions of protobuf in one process don't always agree.
        kinds = (f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python"))
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{proto_root()}", *kinds, PROTO], check=True)


class SdistWithProto(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        target = pathlib.Path(base_dir) / "proto" / PROTO
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(proto_root() / PROTO, target)


setup(
    cmdclass={"build_py": BuildWithStubs, "sdist": SdistWithProto},
    # Generated code refuses runtimes older than its generator.
    install_requires=[
        f"grpcio>={version('grpcio-tools')}",
        f"protobuf>={version('protobuf')}",
        "googleapis-common-protos>=1.60",
        "typing-extensions>=4.6",
    ],
)
