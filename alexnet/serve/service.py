"""What the server holds: networks in memory, threads that compute, samples, metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet.analysis.figures.pictures import png_bytes
from alexnet.errors import DataError
from alexnet.images import Pixels
from alexnet.images.decode import ImageError
from alexnet.predict import best_classes
from alexnet.serve.batching import Batcher
from alexnet.serve.gallery import Gallery
from alexnet.serve.limits import Limits, Load, Refusal, busy
from alexnet.serve.metrics import Metrics, make_metrics
from alexnet.serve.predictor import Predictor
from alexnet.serve.samples import Samples, make_samples
from alexnet.serve.uploads import Upload

log = logging.getLogger(__name__)
Result = TypeVar("Result")

DECODERS = 2
REFRESH_SECONDS = 5.0


@dataclass
class Service:
    """Answers questions about images. The first of `predictors` answers where none is named.

    One thread computes predictions, one the questions about the inside of networks, so that a slow
    one of these keeps no prediction waiting.
    """

    predictors: Sequence[Predictor]
    limits: Limits = field(default_factory=Limits)
    gallery: Gallery | None = None
    """Of the first predictor."""
    load: Load = field(default_factory=Load)
    metrics: Metrics = field(init=False)
    samples: list[Samples] = field(init=False)
    sample_files: dict[str, bytes] = field(init=False)
    """PNG files by name."""
    batchers: dict[str, Batcher] = field(init=False)

    def __post_init__(self) -> None:
        """Start no thread yet: those of a pool start with their first work."""
        self._decoding = ThreadPoolExecutor(DECODERS, "decode")
        self._inside = ThreadPoolExecutor(1, "inside")
        self._inquiries = 0
        self.samples = make_samples(each.run.classes for each in self.predictors)
        self.sample_files = {
            name: png_bytes(each) for kind in self.samples for name, each in kind.pictures.items()
        }
        self.metrics = make_metrics(
            waiting=lambda: sum(map(len, self.batchers.values())),
            in_flight=lambda: self.load.requests,
        )
        self.batchers = {
            each.name: Batcher(
                each.answer,
                ThreadPoolExecutor(1, f"predict-{each.name}"),
                self.limits,
                self.metrics.batches.labels(each.name).observe,
            )
            for each in self.predictors
        }

    def predictor(self, name: str | None) -> Predictor:
        """Return the predictor of a run. Raises `Refusal` for a name that is not served."""
        for each in self.predictors:
            if name is None or each.name == name:
                return each
        served = ", ".join(each.name for each in self.predictors)
        raise Refusal(404, f"no such run is served; there are {served}")

    @contextmanager
    def arriving(self, predictor: Predictor) -> Iterator[None]:
        """Announce images that are being read, for which a batch may wait a little."""
        batcher = self.batchers[predictor.name]
        batcher.arriving += 1
        try:
            yield
        finally:
            batcher.arriving -= 1

    async def decode(
        self, uploads: Sequence[Upload], predictor: Predictor
    ) -> list[Pixels | ImageError]:
        """Decode files in threads; each gives its pixels or why it has none."""
        loop = asyncio.get_running_loop()
        decode = partial(_decode, predictor)
        work = (loop.run_in_executor(self._decoding, decode, each.data) for each in uploads)
        return await asyncio.gather(*work)

    async def predict(
        self, pixels: list[Pixels | ImageError], predictor: Predictor, views: int
    ) -> Iterator[NDArray[np.float64] | ImageError]:
        """Return the probabilities of each image, or the reason why it is none, in order."""
        predictor.loaded  # noqa: B018 - refuses while there are no weights
        images = [each for each in pixels if not isinstance(each, ImageError)]
        rows = iter(await self.batchers[predictor.name].ask(images, views) if images else [])
        return (each if isinstance(each, ImageError) else next(rows) for each in pixels)

    async def inquire(self, question: Callable[[], Result]) -> Result:
        """Compute what the inside of a network says. Raises `Refusal` if many questions wait."""
        if self._inquiries >= self.limits.inquiries:
            raise busy(self.limits)
        self._inquiries += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._inside, question)
        except DataError as error:
            log.error("the data set cannot be read: %s", error)
            raise Refusal(500, "the data set cannot be read; the server's log says why") from None
        finally:
            self._inquiries -= 1

    async def inquire_in_parts(self, parts: Iterator[Result]) -> AsyncIterator[Result]:
        """Compute the parts of a long answer one by one; other questions come between them."""
        while (found := await self.inquire(lambda: next(parts, None))) is not None:
            yield found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Make the index of the data set, and follow a training, until the server ends."""
        tasks = [asyncio.create_task(self._follow())]
        if self.gallery:
            loop = asyncio.get_running_loop()
            own = ThreadPoolExecutor(1, "index")
            tasks.append(asyncio.ensure_future(loop.run_in_executor(own, self.gallery.make)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _follow(self) -> None:
        """Take the newest weights of a training that writes to a served run."""
        loop = asyncio.get_running_loop()
        while any(each.is_training for each in self.predictors):
            await asyncio.sleep(REFRESH_SECONDS)
            for each in self.predictors:
                await loop.run_in_executor(self._decoding, each.refresh)


def as_prediction(
    upload: Upload, row: NDArray[np.float64] | ImageError, predictor: Predictor, top: int
) -> dict[str, object]:
    """Return what `alexnet predict --json` says of an image, or {"image", "error"}."""
    if isinstance(row, ImageError):
        return {"image": upload.name, "error": str(row)}
    prediction = best_classes(upload.name, row, predictor.run, top)
    return {**prediction.as_json(), "run": predictor.name}


def _decode(predictor: Predictor, data: bytes) -> Pixels | ImageError:
    try:
        return predictor.decode(data)
    except ImageError as error:
        return error
