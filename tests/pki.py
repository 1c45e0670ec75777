"""Certificates for the Python tests, made with the openssl program."""

import datetime
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


def sign_until(directory: pathlib.Path, name: str, end: datetime.datetime):
    """NAME.crt of make() anew, valid from a minute ago until `end`, which has a time zone."""
    (directory / "index").write_text("")
    (directory / "authority.cnf").write_text(
        "[ca]\ndefault_ca = a\n[a]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\ndefault_md = sha256\n"
        "policy = p\nunique_subject = no\n[p]\ncommonName = supplied\n"
    )
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    times = [f"{time.astimezone(datetime.UTC):%Y%m%d%H%M%SZ}" for time in (start, end)]
    sign = f"ca -batch -notext -config authority.cnf -cert ca.crt -keyfile ca.key -startdate {times[0]} -enddate {times[1]}"
    openssl(directory, f"{sign} -extfile names -in {name}.csr -out {name}.crt")
