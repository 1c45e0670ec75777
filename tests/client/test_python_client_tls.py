"""The installed patchflow-client against a real server that asks for a certificate and a token."""

import json

import harness
import pki as certificates
import pytest

TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """ca.crt, and NAME.crt and NAME.key of server and client."""
    directory = tmp_path_factory.mktemp("pki")
    certificates.make(directory)
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
