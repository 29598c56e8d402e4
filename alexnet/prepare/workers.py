"""Write shards in several processes; results arrive in the order in which they are finished."""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from alexnet.errors import AlexnetError, StorageError, WorkerError
from alexnet.prepare.shards import OnProgress, ShardResult, ShardTask, write_shard
from alexnet.prepare.sources.base import Source

_Message = tuple[int, Sequence[tuple[str, str]]] | ShardResult | AlexnetError
"""What a worker sends: arguments for `report`, a finished shard, or an error."""


def write_shards(
    source: Source, tasks: Iterator[ShardTask], workers: int, report: OnProgress
) -> Iterator[ShardResult]:
    """Write all shards and yield each result as it is finished; one worker means this process.

    Raises WorkerError if a process dies, and the AlexnetError of a worker.
    """
    if workers == 1:
        for task in tasks:
            yield _write(source, task, report)
        return
    processes = [_Worker(source) for _ in range(workers)]
    try:
        busy = [worker for worker in processes if worker.start(next(tasks, None))]
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
        for worker in processes:
            worker.stop()


def _write(source: Source, task: ShardTask, report: OnProgress) -> ShardResult:
    """Write a shard; raise any failure as an AlexnetError."""
    try:
        return write_shard(source, task, report)
    except AlexnetError:
        raise
    except OSError as error:
        raise StorageError(f"{task.path}: {error.strerror or error}") from error
    except Exception as error:
        raise WorkerError(f"shard {task.name}: {error!r}") from error


class _Worker:
    """One process and the shard that it is writing."""

    def __init__(self, source: Source) -> None:
        # A new interpreter (spawn): a forked copy could inherit locks held by torch's threads.
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(remote, source), daemon=True
        )
        self.shard = ""
        self.process.start()
        remote.close()

    def start(self, task: ShardTask | None) -> bool:
        """Send a task; return False if there is none."""
        if task is None:
            return False
        self.shard = task.name
        with suppress(BrokenPipeError, ConnectionResetError):  # `receive` reports that it died
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
            cause = f"was killed by {signal.Signals(-code).name}; memory may be short"
        else:
            # The usual cause: each worker imports the calling script, which calls prepare again.
            guard = 'a script must call prepare_dataset under if __name__ == "__main__":'
            cause = f"ended with status {code}; {guard}"
        return (
            f"worker process {self.process.pid} {cause} (shard {self.shard}); "
            "finished shards are saved; run the same command again, with fewer workers if needed"
        )

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _serve(connection: Connection, source: Source) -> None:
    """Write shards until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task: ShardTask = connection.recv()
            try:
                connection.send(_write(source, task, lambda *counts: connection.send(counts)))
            except AlexnetError as error:
                connection.send(error)
