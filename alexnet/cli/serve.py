"""`alexnet serve`: a page and an API for trained networks."""

from pathlib import Path
from typing import Annotated

from alexnet.cli.console import print_json, print_note, progress
from alexnet.cli.options import Device, Json, Plain, Weights, accelerator, flag, option
from alexnet.storage.folders import check_run, named_run

Runs = Annotated[
    list[Path] | None,
    option(
        "--run RUN",
        "Run directory; give it twice to compare two runs on the page. Default: shipped, the net "
        "that comes with alexnet, for the ten classes of CIFAR-10.",
    ),
]
Data = Annotated[
    Path | None,
    option(
        "--data DATA",
        "Packed data set: the page shows its images near to yours. Default: that of the run's "
        "index, if alexnet index has made one.",
        show_default=False,
    ),
]
Host = Annotated[str, option("--host HOST", "Address to listen on.")]
Port = Annotated[int, option("--port N", "Port; 0 takes a free one.", min=0, max=65535)]
NoAuth = Annotated[bool, flag("--no-auth", "Need no token on a public address.")]


def serve(  # noqa: PLR0913 - typer makes an option of each parameter
    *,
    run: Runs = None,
    data: Data = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    no_auth: NoAuth = False,
    weights: Weights = "best",
    device: Device = "auto",
    plain: Plain = False,
    json: Json = False,
) -> None:
    r"""Serve a page and an API for trained networks, until Ctrl-C.

    The page shows what a network answers, and looks inside it: its layers,
    what each unit sees, what in a picture decides. Only this machine can
    reach it, unless --host says otherwise. Then requests need the token in
    the environment variable ALEXNET_TOKEN.

    Needs: pip install 'alexnet\[serve]'

    Examples:

      alexnet serve
      alexnet serve --run runs/photos --data data/photos
      alexnet serve --run runs/a --run runs/b --port 8080
      curl --data-binary @cat.jpg http://127.0.0.1:8000/predict
    """
    runs = [named_run(each) for each in run or ()]
    for each in runs:
        check_run(each)
    from alexnet.serve import serve_runs

    def tell(address: str) -> None:
        if json:
            print_json({"address": address})
        print_note(f"serving on {address}  (Ctrl-C stops)")

    shown = progress()
    serve_runs(
        runs,
        data,
        host=host,
        port=port,
        no_auth=no_auth,
        checkpoint=weights,
        device=device,
        accelerate=accelerator(plain, shown),
        progress=shown,
        on_start=tell,
    )
