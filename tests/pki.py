"""Certificates for the Python tests, made with the openssl program."""

import pathlib
import subprocess


def openssl(directory: pathlib.Path, command: str):
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True, timeout=60)


def make(directory: pathlib.Path, names: tuple[str, ...] = ("server", "client"), expired: tuple[str, ...] = ()):
    """ca.crt and ca.key, and NAME.crt and NAME.key for localhost, signed by it; those of `expired` were valid once."""
    openssl(directory, "req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt -subj /CN=authority")
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in (*names, *expired):
        openssl(directory, f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
        days = -1 if name in expired else 30
        sign = f"x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -extfile names"
        openssl(directory, f"{sign} -in {name}.csr -out {name}.crt")
