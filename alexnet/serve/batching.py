"""Images of several requests go through the network together.

A batch starts as soon as the network is free. It waits `Limits.wait` only while other requests are
being read, so that a single client waits for nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from alexnet.images import Pixels
from alexnet.serve.limits import Limits, busy

Answer = Callable[[Pixels, int], NDArray[np.float64]]
"""Maps images (N, size, size, 3) and a number of views to probabilities (N, classes)."""


@dataclass(frozen=True)
class _Waiting:
    image: Pixels
    views: int
    answer: "asyncio.Future[NDArray[np.float64]]"


class Batcher:
    """Collects images and calls `answer` in `thread`, one batch at a time."""

    def __init__(
        self,
        answer: Answer,
        thread: Executor,
        limits: Limits,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._answer, self._thread, self._limits = answer, thread, limits
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self.arriving = 0
        """Requests whose images will come."""

    def __len__(self) -> int:
        """Count the images that wait."""
        return len(self._waiting)

    async def ask(self, images: list[Pixels], views: int) -> list[NDArray[np.float64]]:
        """Return the probabilities of each image: (classes,). Raises `Refusal` if many wait."""
        if len(self._waiting) + len(images) > self._limits.queue:
            raise busy(self._limits)
        loop = asyncio.get_running_loop()
        own = [_Waiting(image, views, loop.create_future()) for image in images]
        self._waiting.extend(own)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        return await asyncio.gather(*(each.answer for each in own))

    async def _run(self) -> None:
        """Answer until nothing waits."""
        while self._waiting:
            if self.arriving and len(self._waiting) < self._limits.batch:
                await asyncio.sleep(self._limits.wait)
            batch = self._next()
            if batch:
                await self._answer_batch(batch)

    def _next(self) -> list[_Waiting]:
        """Take the first images that wait and want the same number of views."""
        while self._waiting and self._waiting[0].answer.done():  # the client has gone
            self._waiting.popleft()
        views = self._waiting[0].views if self._waiting else 0
        same = takewhile(lambda each: each.views == views, self._waiting)
        batch = [each for each, _ in zip(same, range(self._limits.batch), strict=False)]
        for _ in batch:
            self._waiting.popleft()
        return [each for each in batch if not each.answer.done()]

    async def _answer_batch(self, batch: list[_Waiting]) -> None:
        images = np.stack([each.image for each in batch])
        loop = asyncio.get_running_loop()
        self._on_batch(len(batch))
        try:
            rows = await loop.run_in_executor(self._thread, self._answer, images, batch[0].views)
        except Exception as error:  # noqa: BLE001 - it belongs to the requests, not to this loop
            for each in batch:
                with suppress(asyncio.InvalidStateError):
                    each.answer.set_exception(error)
            return
        for each, row in zip(batch, rows, strict=True):
            if not each.answer.done():
                each.answer.set_result(row)
