"""python3 -m patchflow_web --server HOST:PORT [--listen HOST:PORT]"""

import argparse
import pathlib
import socket
import sys

import uvicorn
from patchflow_client import TLS, RetryPolicy, token_from_file

from .app import Settings, make_app

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    description = "A page for Patchflow, and OpenAI's images endpoint in front of it."
    parser = argparse.ArgumentParser(prog="patchflow-web", description=description)
    parser.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT", help="Patchflow's address")
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="port 0 takes a free one")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME",
        help="a name by which browsers may reach it; default: this machine's if it listens on loopback, else any",
    )
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="of a generation, with retries")
    tls = parser.add_argument_group("connection to the server")
    tls.add_argument("--tls", action="store_true", help="speak TLS, trusting gRPC's authorities")
    tls.add_argument("--tls-ca", type=pathlib.Path, metavar="FILE", help="speak TLS, trusting these authorities")
    tls.add_argument("--tls-cert", type=pathlib.Path, metavar="FILE", help="show the server this certificate")
    tls.add_argument("--tls-key", type=pathlib.Path, metavar="FILE")
    tls.add_argument("--tls-server-name", default="", metavar="NAME")
    tls.add_argument("--token-file", type=pathlib.Path, metavar="FILE", help="the token to send; read for each call")
    tls.add_argument(
        "--forward-tokens", action="store_true",
        help="/v1 sends its caller's bearer token to the server instead, and needs one",
    )
    return parser.parse_args(arguments)


def bind(listen: str) -> tuple[socket.socket, str]:
    """A listening socket, and host:port as bound."""
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdigit():
        sys.exit(f"patchflow-web: --listen: {listen!r} is not HOST:PORT")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
        listener.listen(128)  # Callers who come before the application is up wait.
    except (OSError, OverflowError) as error:
        sys.exit(f"patchflow-web: --listen: {listen}: {error}")
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return listener, f"{shown}:{listener.getsockname()[1]}"


def settings_of(options: argparse.Namespace) -> Settings:
    tls = None
    if options.tls or options.tls_ca or options.tls_cert or options.tls_key:
        tls = TLS(options.tls_ca, options.tls_cert, options.tls_key, options.tls_server_name)
    hosts = options.allowed_host
    if not hosts:
        host = options.listen.rpartition(":")[0].strip("[]")
        hosts = ["localhost", "127.0.0.1", "[::1]"] if host in LOOPBACK else ["*"]
    return Settings(
        server=options.server,
        tls=tls,
        token=token_from_file(options.token_file) if options.token_file else None,
        forward_tokens=options.forward_tokens,
        timeout=options.timeout,
        retry=RetryPolicy(),
        allowed_hosts=hosts,
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    try:
        app = make_app(settings_of(options))
    except (OSError, ValueError) as error:
        sys.exit(f"patchflow-web: {error}")
    listener, address = bind(options.listen)
    print(f"patchflow-web: http://{address}", flush=True)
    # A browser that keeps a stream open does not keep the program from ending.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
