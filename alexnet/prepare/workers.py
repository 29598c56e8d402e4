"""Write shards in several processes; results arrive in the order in which they are finished."""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from alexnet.errors import AlexnetError, StorageError, WorkerError, is_out_of_memory
from alexnet.prepare.shards import OnProgress, ShardResult, ShardTask, write_shard
from alexnet.prepare.sources.base import Source

_Message = tuple[int, Sequence[tuple[str, str]]] | ShardResult | AlexnetError
"""What a worker sends: arguments for `report`, a finished shard, or an error."""
ONE_PROCESS = (
    "this program is not a file that worker processes could import (python - < FILE, a notebook's "
    "own source): one process does the work; a script file may use several"
)


def can_start_workers(source: Source) -> bool:
    """Return whether new interpreters can do what each worker does first: import the main module.

    They import it only if it is a file, and need it only for a source that it defines.
    """
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None:  # python -m
        return True
    file = getattr(main, "__file__", None)  # "<stdin>" for a program from standard input
    if file is None:
        return type(source).__module__ != "__main__"
    return Path(file).is_file()


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
        if is_out_of_memory(error):
            raise StorageError("out of memory; try --workers 1") from error
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
        self.shard, self.has_begun = "", False
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
        self.has_begun = True
        return message

    def _death(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            cause = f"was killed by {signal.Signals(-code).name}; memory may be short"
        else:
            cause = f"ended with status {code}"
            if not self.has_begun and hasattr(sys.modules["__main__"], "__file__"):
                # Each worker imports the calling script, which calls prepare again.
                cause += '; a script must call prepare_dataset under if __name__ == "__main__":'
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
