"""Shards written by several processes; the results come back in the order they are finished."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from alexnet.errors import AlexnetError, StorageError, WorkerError
from alexnet.prepare.shards import Report, ShardResult, ShardTask, write_shard
from alexnet.prepare.sources.base import Source

# What comes back from a worker: news for `report`, a finished shard, or why it could not.
_Message = tuple[int, Sequence[tuple[str, str]]] | ShardResult | AlexnetError


def write_shards(
    source: Source, tasks: Iterator[ShardTask], workers: int, report: Report
) -> Iterator[ShardResult]:
    """Write all shards and yield each result when it is there; one worker means this process.

    Raises WorkerError if a process dies, and any AlexnetError that one of them met.
    """
    if workers == 1:
        for task in tasks:
            yield _write(source, task, report)
        return
    team = [_Worker(source) for _ in range(workers)]
    try:
        busy = [worker for worker in team if worker.start(next(tasks, None))]
        while busy:
            for connection in wait([worker.connection for worker in busy]):
                worker = next(worker for worker in busy if worker.connection is connection)
                message = worker.receive()
                if isinstance(message, AlexnetError):
                    raise message
                if isinstance(message, ShardResult):
                    yield message
                    if not worker.start(next(tasks, None)):
                        busy.remove(worker)
                else:
                    report(*message)
    finally:
        for worker in team:
            worker.stop()


def _write(source: Source, task: ShardTask, report: Report) -> ShardResult:
    """Write a shard; any failure comes out as one of our errors."""
    try:
        return write_shard(source, task, report)
    except AlexnetError:
        raise
    except OSError as error:
        raise StorageError(f"{task.part}: {error.strerror or error}") from error
    except Exception as error:
        raise WorkerError(f"shard {task.name}: {error!r}") from error


class _Worker:
    """One process, and the shard it is at."""

    def __init__(self, source: Source) -> None:
        # A new interpreter (spawn): a forked copy could inherit locks held by torch's threads.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, source), daemon=True
        )
        self.shard = ""
        self.process.start()
        theirs.close()

    def start(self, task: ShardTask | None) -> bool:
        """Hand over a task; False if there is none."""
        if task is None:
            return False
        self.shard = task.name
        with suppress(BrokenPipeError, ConnectionResetError):  # `receive` will say that it died
            self.connection.send(task)
        return True

    def receive(self) -> _Message:
        try:
            message: _Message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerError(self._death()) from None
        return message

    def _death(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            cause = f"was ended by {signal.Signals(-code).name}; the memory may be short"
        else:
            # The usual cause: each worker imports the script that called us, which calls us again.
            guard = 'a script must call prepare_dataset under if __name__ == "__main__":'
            cause = f"ended with status {code}; {guard}"
        return (
            f"worker process {self.process.pid} {cause} (shard {self.shard}); "
            "finished shards are kept, run the same command again, with fewer workers if need be"
        )

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _serve(connection: Connection, source: Source) -> None:
    """Write shards until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task: ShardTask = connection.recv()
            try:
                connection.send(_write(source, task, lambda *counts: connection.send(counts)))
            except AlexnetError as error:
                connection.send(error)
