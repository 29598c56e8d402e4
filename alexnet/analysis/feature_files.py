"""Writing features batch by batch to .npy arrays or a .parquet table."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.analysis.features import Features, Tapped
from alexnet.errors import DataError, UsageError
from alexnet.images.files import raise_error
from alexnet.progress import SILENT, Progress
from alexnet.storage.atomic import atomic_write, expanded

Shapes = dict[str, tuple[int, ...]]
Write = Callable[[list[str], Features], None]
"""Adds the names of a batch's images and their features to the files."""


@dataclass(frozen=True)
class FeatureReport:
    """What was written."""

    images: int
    layers: Shapes
    """The shape of each layer's features, images first."""
    files: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def write_features(
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    tapped: Tapped,
    *,
    on_bad: Callable[[DataError], None] = raise_error,
    progress: Progress = SILENT,
) -> FeatureReport:
    """Write the features of files, or of all files in folders, to `out`.

    `out`.npy is an array, images first; several layers make one each, such as out-fc6.npy.
    out-images.txt has the names of the images, a JSON text on each line. `out`.parquet is a table
    with a row for each image: its name, and a list of numbers for each layer.
    `on_bad` gets the error of a file that is not an image. Raises `DataError` if none can be read.
    """
    path = expanded(out)
    if path.suffix not in _OPEN:
        raise UsageError(f"{out} is neither a .npy nor a .parquet file")
    shapes = tapped.shapes
    files, opened = _OPEN[path.suffix](path, shapes)
    count = 0
    bad: list[DataError] = []

    def leave_out(error: DataError) -> None:
        bad.append(error)
        on_bad(error)

    with opened as write:
        for names, features in tapped.read(images, on_bad=leave_out, progress=progress):
            write(names, features)
            count += len(names)
        if not count:
            raise DataError(f"not one image can be read; the first: {bad[0]}")
    sizes = {layer: (count, *shape) for layer, shape in shapes.items()}
    return FeatureReport(count, sizes, tuple(map(str, files)))


_Opened = tuple[list[Path], AbstractContextManager[Write]]


def _npy(path: Path, shapes: Shapes) -> _Opened:
    arrays = {
        layer: path if len(shapes) == 1 else path.with_stem(f"{path.stem}-{layer}")
        for layer in shapes
    }
    listing = path.with_name(f"{path.stem}-images.txt")

    @contextmanager
    def open_all() -> Iterator[Write]:
        with ExitStack() as stack:
            append = {
                layer: stack.enter_context(growing_array(arrays[layer], shapes[layer]))
                for layer in shapes
            }
            temporary = stack.enter_context(atomic_write(listing))
            lines = stack.enter_context(temporary.open("w", encoding="utf-8"))

            def write(names: list[str], features: Features) -> None:
                lines.writelines(json.dumps(name) + "\n" for name in names)
                for layer in shapes:
                    append[layer](features[layer])

            yield write

    return [*arrays.values(), listing], open_all()


@contextmanager
def growing_array(
    path: Path, shape: tuple[int, ...]
) -> Iterator[Callable[[NDArray[np.float32]], None]]:
    """Open a .npy file and yield a function that appends rows of `shape`."""
    count = 0

    def append(rows: NDArray[np.float32]) -> None:
        nonlocal count
        file.write(rows.astype("<f4").tobytes())
        count += len(rows)

    def write_header() -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header)

    with atomic_write(path) as temporary, temporary.open("wb") as file:
        write_header()
        yield append
        write_header()  # numpy's header leaves room for a larger count


def _parquet(path: Path, shapes: Shapes) -> _Opened:
    if find_spec("pyarrow") is None:
        raise UsageError(".parquet needs pip install 'alexnet[parquet]'; .npy needs nothing")
    pa = import_module("pyarrow")
    writer = import_module("pyarrow.parquet").ParquetWriter
    counts = {layer: math.prod(shape) for layer, shape in shapes.items()}
    lists = [(layer, pa.list_(pa.float32(), counts[layer])) for layer in shapes]
    metadata = {"alexnet_shapes": json.dumps(shapes)}
    schema = pa.schema([("image", pa.string()), *lists], metadata=metadata)

    @contextmanager
    def open_table() -> Iterator[Write]:
        def write(names: list[str], features: Features) -> None:
            texts = [name.encode("utf-8", "backslashreplace").decode() for name in names]
            columns = [
                pa.FixedSizeListArray.from_arrays(features[layer].reshape(-1), counts[layer])
                for layer in shapes
            ]
            table.write_batch(pa.record_batch([texts, *columns], schema=schema))

        with atomic_write(path) as temporary, writer(temporary, schema) as table:
            yield write

    return [path], open_table()


_OPEN: dict[str, Callable[[Path, Shapes], _Opened]] = {".npy": _npy, ".parquet": _parquet}
