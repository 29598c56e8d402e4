"""What every request passes before its handler: who asks, how much is sent, how slowly.

An ASGI application around another one. Bodies are counted while they are read, whatever their
headers say.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from alexnet.serve.limits import Limits, Load, Refusal, busy

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = ("/", "/health", "/docs", "/openapi.json", "/page/")
"""What needs no token: the page itself, which asks for it, and whether the server lives."""
SKIPPED_BYTES, SKIPPED_SECONDS = 2**18, 0.5
"""Of a refused body, at most this is read."""
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass
class Guard:
    """Passes requests to `app` within `limits`.

    With a `token`, a request needs the header `Authorization: Bearer TOKEN`. `hosts` are the names
    by which the server may be addressed; none means any. They keep a page from elsewhere from
    reaching a server on this machine through a name of its own.
    """

    app: Application
    limits: Limits
    token: str | None = None
    hosts: Iterable[str] = ()
    load: Load = field(default_factory=Load)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, self.limits, self.load)
        answer = _Answer(send)
        try:
            self._check(scope)
            has_body = scope["method"] not in ("GET", "HEAD", "OPTIONS")
            if has_body and self.load.requests >= self.limits.requests:
                raise busy(self.limits)
            self.load.requests += has_body
            try:
                await self.app(scope, body.receive, answer.send)
            finally:
                self.load.requests -= has_body
                body.release()
        except Refusal as refusal:
            if not answer.has_begun:
                await body.skip()
                await answer.refuse(refusal)

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        """Raise `Refusal` for a request that is refused by its headers."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "").rpartition(":")
        name = (host[0] if host[0] and host[2].isdigit() else headers.get("host", "")).lower()
        if self.hosts and name not in self.hosts:
            raise Refusal(421, "this server is not known by that name")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            raise Refusal(403, "requests from other sites are refused")
        if self.token is not None and not _is_open(scope["path"]):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise Refusal(401, "a token is needed", www_authenticate="Bearer")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self.limits.body:
            raise too_large(self.limits)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/page/")


def too_large(limits: Limits) -> Refusal:
    """Return the refusal of a body that is too large."""
    return Refusal(413, f"more than {limits.body // 2**20} MB; send a smaller image, or fewer")


class _Body:
    """Counts and times the parts of one request's body."""

    def __init__(self, receive: Receive, limits: Limits, load: Load) -> None:
        self._receive, self._limits, self._load = receive, limits, load
        self._bytes = 0
        self._is_whole = False
        self._end = asyncio.get_running_loop().time() + limits.upload

    async def receive(self) -> Message:
        """Return the next message. Raises `Refusal` for too many bytes, and for too slow ones."""
        if self._is_whole:  # what follows is only that the client has gone
            return await self._receive()
        left = self._end - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), min(left, self._limits.silence))
        except TimeoutError:
            raise Refusal(408, "the request was sent too slowly", connection="close") from None
        self._is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        count = len(message.get("body", b""))
        self._bytes += count
        self._load.bytes += count
        if self._bytes > self._limits.body:
            raise too_large(self._limits)
        if self._load.bytes > self._limits.bodies:
            raise busy(self._limits)
        return message

    async def skip(self) -> None:
        """Read a body that was refused by its headers, if it is short.

        A client that is still sending when the connection closes may never see the refusal.
        """
        if self._bytes or self._is_whole:
            return
        count = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(SKIPPED_SECONDS):
                while count < SKIPPED_BYTES and not self._is_whole:
                    message = await self._receive()
                    count += len(message.get("body", b""))
                    self._is_whole = not message.get("more_body", False)

    def release(self) -> None:
        """Count the body no longer."""
        self._load.bytes -= self._bytes


class _Answer:
    """Adds the headers of security to one response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Send a message of the application."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            own = {name for name, _ in message["headers"]}
            added = {"cache-control": "no-store", **SECURITY}
            message["headers"] = [
                *message["headers"],
                *((k.encode(), v.encode()) for k, v in added.items() if k.encode() not in own),
            ]
            if message["status"] in (408, 413, 503):  # a body may be left unread
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal."""
        body = json.dumps({"error": refusal.message}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        pairs = [(k.encode(), v.encode()) for k, v in {**headers, **refusal.headers}.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})
