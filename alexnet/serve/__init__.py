"""A server for programs and for people: predictions, and a page that looks inside a network.

`alexnet serve` starts it. It holds networks in memory and answers on one port; docs/serve.md lists
the endpoints and what the server refuses.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from alexnet.device import DeviceName
from alexnet.errors import UsageError
from alexnet.evaluate import Accelerate
from alexnet.progress import SILENT, Progress
from alexnet.storage.checkpoint_store import CheckpointName
from alexnet.storage.folders import SHIPPED_RUN

LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")


def check_libraries() -> None:
    """Raise `UsageError` if a library that only the server needs is not installed."""
    if any(find_spec(name) is None for name in LIBRARIES):
        raise UsageError("the server needs: pip install 'alexnet[serve]'")


def serve_runs(  # noqa: PLR0913 - each is a decision of its own
    runs: Sequence[str | Path] = (),
    data: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    no_auth: bool = False,
    checkpoint: CheckpointName = "best",
    device: DeviceName = "auto",
    accelerate: Accelerate | None = None,
    progress: Progress = SILENT,
    on_start: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve trained runs until the process is told to stop; `on_start` receives the address.

    Without `runs` the net that comes with the package is served. `data` is a packed data set for
    the first run, by default that of its index (`alexnet.index_images`). A public `host` needs a
    token in the environment variable ALEXNET_TOKEN, or `no_auth`. `progress` gets a line where an
    index is missing or not used. Raises `UsageError` for an address that cannot be used,
    `CheckpointError` for a run without weights, unless a training is about to write them.
    """
    check_libraries()
    from alexnet.serve.gallery import open_gallery
    from alexnet.serve.predictor import Predictor
    from alexnet.serve.server import bind, chosen_token, run_server
    from alexnet.serve.service import Service

    token = chosen_token(host, no_auth=no_auth)
    paths = list(map(Path, runs)) or [SHIPPED_RUN]
    with bind(host, port) as own:
        predictors = [
            Predictor(path, name, checkpoint=checkpoint, device=device, accelerate=accelerate)
            for path, name in zip(paths, names_of(paths), strict=True)
        ]
        gallery = open_gallery(predictors[0], data, progress)
        run_server(Service(predictors, gallery=gallery), own, token, on_start)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name each run by its folder; a name that is there already gets a number."""
    names: list[str] = []
    for path in paths:
        name = path.resolve().name
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names
