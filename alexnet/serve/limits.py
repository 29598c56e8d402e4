"""What a client may ask of the server, and how the server refuses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds. Pixels are limited by `alexnet.images.decode`."""

    body: int = 16 * 2**20
    """Of one request."""
    bodies: int = 256 * 2**20
    """Of all requests together, held at a time."""
    images: int = 64
    """In one request."""
    requests: int = 128
    """With a body, answered at a time."""
    connections: int = 1024
    batch: int = 32
    """Images that go through the network together."""
    queue: int = 256
    """Images that wait for the network."""
    wait: float = 0.003
    """For requests that are being read, so that their images join the batch."""
    headers: float = 10
    """For the headers of a request."""
    silence: float = 10
    """Between two parts of a body, and for a client to take what it is sent."""
    upload: float = 60
    """For a whole body."""
    inquiries: int = 16
    """Questions about the inside of a network that wait; they are answered one by one."""
    values: int = 2_000_000
    """Numbers in one answer in JSON."""
    retry: int = 1
    """What Retry-After says."""
    grace: int = 30
    """For requests in flight when the server is told to stop."""


class Refusal(Exception):  # noqa: N818 - what is refused is the client's request
    """Ends a request with `status` and one line for the client, which names no path."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def busy(limits: Limits) -> Refusal:
    """Return the refusal of what would wait too long."""
    return Refusal(503, "too many requests at a time; try again", retry_after=str(limits.retry))


@dataclass
class Load:
    """What the requests that are being answered hold."""

    requests: int = 0
    bytes: int = 0
