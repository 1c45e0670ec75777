"""The way to a server: address, TLS, token."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Union

import grpc

Token = Union[str, Callable[[], str], None]
_Path = Union[str, "os.PathLike[str]"]

# A chunk of an image has at most 1 MiB; a preview is smaller.
_MAX_MESSAGE_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class TLS:
    """Files are PEM. Without `ca` gRPC's own authorities are trusted; `cert` and `key` are shown to the server."""

    ca: _Path | None = None
    cert: _Path | None = None
    key: _Path | None = None
    server_name: str = ""  # To be found in the server's certificate, if not the host's.

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. ValueError for a certificate without a key, or a key without one."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("TLS: cert and key go together")
        files = (self.ca, self.key, self.cert)
        ca, key, cert = (None if path is None else pathlib.Path(path).read_bytes() for path in files)
        return grpc.ssl_channel_credentials(ca, key, cert)


def token_from_file(path: _Path) -> Callable[[], str]:
    """A token that is read anew for each call, so that it may be replaced while the client lives."""
    return lambda: pathlib.Path(path).read_text().strip()


def is_this_machine(address: str) -> bool:
    return address.startswith(("localhost:", "127.", "[::1]:", "unix:"))


def check_token(address: str, token: Token, tls: TLS | None) -> None:
    """ValueError if the token would go to another machine unencrypted."""
    if token is not None and tls is None and not is_this_machine(address):
        raise ValueError(f"token: it would go to {address} unencrypted; give tls=TLS()")


def call_metadata(token: Token) -> tuple[tuple[str, str], ...]:
    """What each call carries."""
    value = token() if callable(token) else token
    return (("authorization", f"Bearer {value}"),) if value else ()


def channel_options(address: str, tls: TLS | None, version: str) -> list[tuple[str, object]]:
    options: list[tuple[str, object]] = [
        ("grpc.primary_user_agent", f"patchflow-python/{version}"),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        # A failed connection is tried again as often as our own retries come, which are the only ones.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.enable_retries", 0),
    ]
    if is_this_machine(address):
        options.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options
