"""HTTP connections that end when a client is too slow, in either direction.

uvicorn bounds neither the time for the headers of a request nor the time for taking a response.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from alexnet.serve.limits import Limits

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Base
else:
    Base = object


class Timed(Base):
    """Aborts a connection that sends no whole headers in time, or takes no response.

    A mixin for uvicorn's protocol, which is imported when a server starts.
    """

    limits: ClassVar[Limits]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timers: dict[str, Any] = {}

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for headers; refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
        else:
            self._start("headers", self.limits.headers)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those between two requests begin the headers of the next one."""
        before = self.cycle
        if "headers" not in self._timers and (before is None or before.response_complete):
            self._start("headers", self.limits.headers)
        super().data_received(data)
        if self.cycle is not before:
            self._stop("headers")

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what was sent."""
        super().pause_writing()
        self._start("taking", self.limits.silence)

    def resume_writing(self) -> None:
        """Wait no longer."""
        super().resume_writing()
        self._stop("taking")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        for name in list(self._timers):
            self._stop(name)
        super().connection_lost(exc)

    def _start(self, name: str, seconds: float) -> None:
        self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()


def make_protocol(limits: Limits) -> type[Any]:
    """Return uvicorn's protocol with the time-outs of `limits`."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return type("TimedProtocol", (Timed, H11Protocol), {"limits": limits})
