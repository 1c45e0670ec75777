"""Health and reflection, as stock clients ask for them, of a server that asks for tokens or certificates."""

import datetime
import json
import pathlib
import time

import grpc
import harness
import pki
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TOKEN = "a-token-of-the-tests-0123456789"
WRONG_TOKEN = "a-wrong-token-0123456789"
SERVICES = {
    "patchflow.v1.ImageGenerationService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("pki")
    pki.make(made, expired=("expired",))
    (made / "tokens.yaml").write_text(json.dumps({"tokens": [{"name": "tests", "token": TOKEN}]}))
    return made


def serve(directory: pathlib.Path, **security):
    tls = {"certificate": str(directory / "server.crt"), "key": str(directory / "server.key")}
    tls |= security.pop("tls", {})
    return harness.Server([harness.Group(harness.BUNDLED)], {"security": {"tls": tls} | security})


@pytest.fixture(scope="module")
def with_tokens(directory):
    with serve(directory, tokens=str(directory / "tokens.yaml")) as server:
        yield server


@pytest.fixture(scope="module")
def with_certificates(directory):
    with serve(directory, tls={"client_ca": str(directory / "ca.crt")}) as server:
        yield server


class Bearer(grpc.AuthMetadataPlugin):
    def __init__(self, token: str):
        self.token = token

    def __call__(self, _context, callback):
        callback((("authorization", f"Bearer {self.token}"),), None)


def channel(server, directory: pathlib.Path, pair: str | None = None, token: str | None = None) -> grpc.Channel:
    """A connection of its own, with the certificate of this pair and this token on every call."""
    key, chain = ((directory / f"{pair}.{end}").read_bytes() if pair else None for end in ("key", "crt"))
    credentials = grpc.ssl_channel_credentials((directory / "ca.crt").read_bytes(), key, chain)
    if token is not None:
        credentials = grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(Bearer(token)))
    return grpc.secure_channel(server.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def ask_health(connected: grpc.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(connected)
    return stub.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=20).status


def ask_reflection(connected: grpc.Channel, version: str, *questions) -> list:
    """The answers on one stream. The messages of v1 are those of v1alpha."""
    call = connected.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter(questions), timeout=20))


def ask_v1(connected: grpc.Channel):
    listed, found, missing = ask_reflection(
        connected,
        "v1",
        reflection_pb2.ServerReflectionRequest(list_services="*"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="patchflow.v1.ImageGenerationService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Symbol"),
    )
    assert {service.name for service in listed.list_services_response.service} == SERVICES
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in found.file_descriptor_response.file_descriptor_proto
    ]
    assert files[0].name == "patchflow/v1/image_generation.proto"
    assert {name for file in files for name in file.dependency} < {file.name for file in files}
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def ask_v1alpha(connected: grpc.Channel):
    database = ProtoReflectionDescriptorDatabase(connected)
    assert set(database.get_services()) == SERVICES
    found = database.FindFileContainingSymbol("patchflow.v1.ImageGenerationService")
    assert found.name == "patchflow/v1/image_generation.proto"


def everything_answers(connected: grpc.Channel):
    assert ask_health(connected) == health_pb2.HealthCheckResponse.SERVING
    ask_v1(connected)
    ask_v1alpha(connected)


def nothing_answers(connected: grpc.Channel, code: grpc.StatusCode):
    question = reflection_pb2.ServerReflectionRequest(list_services="*")
    for ask in (
        lambda: ask_health(connected),
        lambda: ask_reflection(connected, "v1", question),
        lambda: ask_reflection(connected, "v1alpha", question),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            ask()
        assert refused.value.code() == code


def test_a_token_lets_stock_clients_in(with_tokens, directory):
    with channel(with_tokens, directory, token=TOKEN) as connected:
        everything_answers(connected)


@pytest.mark.parametrize("token", [None, WRONG_TOKEN], ids=["none", "wrong"])
def test_without_the_token_nothing_answers(with_tokens, directory, token):
    with channel(with_tokens, directory, token=token) as connected:
        nothing_answers(connected, grpc.StatusCode.UNAUTHENTICATED)


def test_a_certificate_lets_stock_clients_in(with_certificates, directory):
    with channel(with_certificates, directory, "client") as connected:
        everything_answers(connected)


@pytest.mark.parametrize("pair", [None, "expired"])
def test_without_a_valid_certificate_nothing_answers(with_certificates, directory, pair):
    with channel(with_certificates, directory, pair) as connected:
        nothing_answers(connected, grpc.StatusCode.UNAVAILABLE)


def test_a_server_whose_certificate_expires_is_not_trusted_until_it_has_another(tmp_path):
    pki.make(tmp_path)
    end = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=10)
    pki.sign_until(tmp_path, "server", end)
    with serve(tmp_path, tls={"refresh": "100ms"}) as server:
        with channel(server, tmp_path) as connected:
            assert ask_health(connected) == health_pb2.HealthCheckResponse.SERVING
        assert datetime.datetime.now(datetime.UTC) < end, "the machine is too slow for this test"
        time.sleep((end - datetime.datetime.now(datetime.UTC)).total_seconds() + 1)
        with channel(server, tmp_path) as connected:
            nothing_answers(connected, grpc.StatusCode.UNAVAILABLE)
        assert server.process.poll() is None
        pki.sign_until(tmp_path, "server", end + datetime.timedelta(days=1))
        deadline = time.monotonic() + 20
        while True:
            with channel(server, tmp_path) as connected:
                try:
                    assert ask_health(connected) == health_pb2.HealthCheckResponse.SERVING
                    break
                except grpc.RpcError:
                    assert time.monotonic() < deadline, "the new certificate is not shown"
            time.sleep(0.1)


def test_a_server_does_not_start_with_a_certificate_that_has_expired(directory):
    tls = {"certificate": str(directory / "expired.crt"), "key": str(directory / "expired.key")}
    with pytest.raises(AssertionError, match="expired"):
        serve(directory, tls=tls)
