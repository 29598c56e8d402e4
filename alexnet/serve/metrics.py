"""Counts and times of requests, for Prometheus."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32)
OTHER = "other"


@dataclass(frozen=True)
class Metrics:
    """What the server counts."""

    registry: "CollectorRegistry"
    requests: "Counter"
    seconds: "Histogram"
    batches: "Histogram"

    def text(self) -> bytes:
        """Write all values in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


def make_metrics(waiting: Callable[[], int], in_flight: Callable[[], int]) -> Metrics:
    """Return counters at zero.

    `waiting` counts the images in the queue, `in_flight` the requests with a body.
    """
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    registry = CollectorRegistry()
    own: dict[str, Any] = {"registry": registry}
    queue = Gauge("alexnet_queue_images", "Images that wait for the network.", **own)
    queue.set_function(waiting)
    flying = Gauge("alexnet_requests_in_flight", "Requests with a body.", **own)
    flying.set_function(in_flight)
    return Metrics(
        registry=registry,
        requests=Counter("alexnet_requests", "Requests.", ("path", "status"), **own),
        seconds=Histogram(
            "alexnet_request_seconds", "Time of a request.", ("path",), buckets=SECONDS, **own
        ),
        batches=Histogram(
            "alexnet_batch_images", "Images in a batch.", ("run",), buckets=IMAGES, **own
        ),
    )
