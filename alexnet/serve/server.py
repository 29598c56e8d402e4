"""The process: an address, a socket, uvicorn, and an end that leaves no request behind."""

import ipaddress
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from alexnet.errors import UsageError
from alexnet.serve.app import make_app
from alexnet.serve.protocol import make_protocol
from alexnet.serve.service import Service

if TYPE_CHECKING:
    import uvicorn

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
TOKEN = "ALEXNET_TOKEN"  # noqa: S105 - the name of an environment variable
SHORTEST_TOKEN = 16


def is_local(host: str) -> bool:
    """Tell whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def chosen_token(host: str, *, no_auth: bool) -> str | None:
    """Return the token of the environment variable `TOKEN`, which a public address needs.

    Raises `UsageError` for a public address without one, unless `no_auth`.
    """
    token = os.environ.get(TOKEN) or None
    if token and len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"{TOKEN} has {len(token)} characters, fewer than {SHORTEST_TOKEN}; "
            f"take this one: {secrets.token_urlsafe(24)}"
        )
    if token is None and not no_auth and not is_local(host):
        raise UsageError(
            f"{host} can be reached from other machines: set {TOKEN}, which requests then need, "
            f"or add --no-auth"
        )
    return None if no_auth else token


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `UsageError` for an address that cannot be used."""
    own: socket.socket | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        # Without the protocol's number asyncio leaves Nagle's algorithm on: 40 ms for each answer.
        own = socket.socket(family, kind, protocol)
        if os.name == "posix":  # on Windows it would share a port that is in use
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(address)
        own.listen()
    except OSError as error:
        if own is not None:
            own.close()
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port"
        ) from None
    return own


def address_of(own: socket.socket) -> str:
    """Return the address of a bound socket for a browser."""
    host, port = own.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    service: Service, own: socket.socket, token: str | None, on_start: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C. Requests in flight are finished; then this returns."""
    server = make_server(service, own, token)
    # After its orderly end uvicorn raises the signal again; that is no error.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    on_start(address_of(own))
    server.run(sockets=[own])


def make_server(service: Service, own: socket.socket, token: str | None) -> "uvicorn.Server":
    """Return a server for a bound socket; its `run` serves."""
    import uvicorn

    host = own.getsockname()[0]
    hosts = (*LOCAL_NAMES, host) if is_local(host) else ()
    app = make_app(service, token=token, hosts=hosts, paths=is_local(host))
    config = uvicorn.Config(
        app,
        http=make_protocol(service.limits),
        ws="none",
        lifespan="on",
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=service.limits.grace,
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=32 * 1024,
    )
    return uvicorn.Server(config)
