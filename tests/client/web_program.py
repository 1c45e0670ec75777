"""Starts patchflow-web on a free port."""

import contextlib
import os
import subprocess
import sys

import harness


@contextlib.contextmanager
def running(installed, server_address: str, *flags: str):
    """Yields its URL, such as http://127.0.0.1:1234."""
    environment = {**os.environ, "PYTHONPATH": f"{installed}:{harness.TOP / 'client' / 'web' / 'src'}"}
    command = [sys.executable, "-m", "patchflow_web", "--server", server_address, "--listen", "127.0.0.1:0", *flags]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("patchflow-web: http://"), line
        yield line.split()[-1]
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
