"""`alexnet index`: a run's training images by what its last hidden layer makes of them."""

from pathlib import Path
from typing import Annotated

import typer

from alexnet.cli.console import counted, print_json, progress, stdout
from alexnet.cli.options import Device, Json, Weights, option
from alexnet.errors import DataError
from alexnet.storage.folders import check_run, is_dataset, not_a_dataset

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Packed data set that the run was trained on.")
]
TrainedRun = Annotated[Path, option("--run RUN", "Run directory; the index is written into it.")]


def index(
    data: Data,
    *,
    run: TrainedRun,
    weights: Weights = "best",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Index training images, to find those nearest to others.

    RUN/index gets the outputs of the last hidden layer for every training
    image. Then alexnet serve --run RUN shows the training images nearest to
    yours, without --data, and alexnet predict --nearest names them.

    The index is of one set of weights and one data set: train or prepare
    again, and it is refused until it is made again.

    Examples:

      alexnet index data/photos --run runs/photos
      alexnet serve --run runs/photos
      alexnet predict cat.jpg --run runs/photos --nearest 5
    """
    check_run(run)
    if not is_dataset(data):
        raise DataError(not_a_dataset(data))
    from alexnet.analysis.index import index_images

    report = index_images(data, run, checkpoint=weights, device=device, progress=progress())
    if json:
        print_json(report.as_json())
        return
    images = counted(report.images, f"{report.split} image")
    console = stdout()
    console.print(f"{images}, {report.units:,} outputs of {report.layer} for each")
    console.print(f"in {report.index}, {report.bytes / 1e6:,.1f} MB", soft_wrap=True)
