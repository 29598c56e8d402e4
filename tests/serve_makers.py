"""A server on a free port of this machine, in a thread, and clients for it."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from alexnet.serve.gallery import open_gallery
from alexnet.serve.limits import Limits
from alexnet.serve.predictor import Predictor
from alexnet.serve.server import address_of, bind, make_server
from alexnet.serve.service import Service


@dataclass(frozen=True)
class Reply:
    """A response as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    service: Service
    url: str
    port: int

    def get(self, path: str, **headers: str) -> Reply:
        return self.send(Request(self.url + path, headers=dashed(headers)))

    def post(self, path: str, body: bytes, **headers: str) -> Reply:
        given = {"content-type": "application/octet-stream", **dashed(headers)}
        return self.send(Request(self.url + path, body, given, method="POST"))

    def send(self, request: Request) -> Reply:
        try:
            with urlopen(request, timeout=60) as response:
                return Reply(response.status, lower(response.headers), response.read())
        except HTTPError as error:
            with error:
                return Reply(error.code, lower(error.headers), error.read())

    def connect(self, seconds: float = 20) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)


def dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@contextmanager
def serving(
    *runs: Path, limits: Limits | None = None, data: Path | None = None, token: str | None = None
) -> Iterator[Serving]:
    """Serve runs until the context ends."""
    predictors = [Predictor(run, f"run{number}") for number, run in enumerate(runs)]
    gallery = open_gallery(predictors[0], data)
    service = Service(predictors, limits or Limits(), gallery)
    with bind("127.0.0.1", 0) as own:
        server = make_server(service, own, token)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        url, port = address_of(own), own.getsockname()[1]
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield Serving(service, url, port)
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def wait_until(holds: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def form(*files: tuple[str, bytes], boundary: str = "edge") -> tuple[bytes, str]:
    """Write files as a form; return the body and its content type."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def answer_of(connection: socket.socket) -> bytes:
    """Read all that the server sends until it closes the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionError:
        pass
    return received
