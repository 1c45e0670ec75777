"""The installed patchflow-client against a real server that asks for a certificate and a token."""

import json
import subprocess

import harness
import pytest

TOKEN = "a-token-of-the-tests-0123456789"


def openssl(directory, command: str):
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """ca.crt, and NAME.crt and NAME.key of server and client."""
    directory = tmp_path_factory.mktemp("pki")
    openssl(directory, "req -x509 -newkey rsa:2048 -nodes -days 30 -keyout ca.key -out ca.crt -subj /CN=authority")
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(directory, f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
        sign = "x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names"
        openssl(directory, f"{sign} -in {name}.csr -out {name}.crt")
    return directory


@pytest.fixture(scope="module")
def guarded(pki):
    (pki / "tokens.yaml").write_text(json.dumps({"tokens": [{"name": "tests", "token": TOKEN}]}))
    tls = {"certificate": str(pki / "server.crt"), "key": str(pki / "server.key"), "client_ca": str(pki / "ca.crt")}
    security = {"tls": tls, "tokens": str(pki / "tokens.yaml")}
    with harness.Server([harness.Group(harness.BUNDLED)], {"security": security}) as server:
        yield server


@pytest.fixture
def tls(patchflow, pki):
    return patchflow.TLS(ca=pki / "ca.crt", cert=pki / "client.crt", key=pki / "client.key")


def test_certificate_and_token_let_it_in(patchflow, guarded, tls):
    with patchflow.Client(guarded.address, tls=tls, token=TOKEN) as client:
        assert client.generate("a red star", steps=1).images


@pytest.mark.parametrize("token", [None, "a-wrong-token-0123456789"])
def test_without_the_token_it_is_refused(patchflow, guarded, tls, token):
    with patchflow.Client(guarded.address, tls=tls, token=token) as client:
        with pytest.raises(patchflow.Unauthenticated) as error:
            client.models()
    assert error.value.reason == "UNAUTHENTICATED"


def test_without_a_certificate_it_is_refused(patchflow, guarded, pki):
    tls = patchflow.TLS(ca=pki / "ca.crt")
    with patchflow.Client(guarded.address, tls=tls, token=TOKEN, retry=patchflow.NO_RETRIES) as client:
        with pytest.raises(patchflow.Unavailable):
            client.models(timeout=10)


def test_another_servers_name_is_refused(patchflow, guarded, pki, tls):
    strange = patchflow.TLS(ca=tls.ca, cert=tls.cert, key=tls.key, server_name="elsewhere.example")
    with patchflow.Client(guarded.address, tls=strange, token=TOKEN, retry=patchflow.NO_RETRIES) as client:
        with pytest.raises(patchflow.Unavailable):
            client.models(timeout=10)
