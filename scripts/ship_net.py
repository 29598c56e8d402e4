"""Put a trained run into the package as the net that `alexnet predict` uses without --run.

    python scripts/record.py RUN DATA results/shipped_net --commit ... --hardware ... --command ...
    python scripts/ship_net.py RUN DATA results/shipped_net

Writes alexnet/shipped/cifar10_11: the run's description and mean image, its best weights as
integers of 6 to 8 bits, at most 1 MB in all, and a card. Adds to result.json of `record.py` what
the integers change: errors and answers on DATA's test images. Puts the errors into the README's
table and results/figures.tsv.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet import Dataset, Run
from alexnet.bench.report import save_json
from alexnet.evaluate import EVALUATION_BATCH, answer_batches, count_errors
from alexnet.storage import checkpoint_store
from alexnet.storage.checkpoint_format import MODEL
from alexnet.storage.folders import SHIPPED_RUN
from alexnet.storage.quantized import quantize

BITS = {"local3": 6, "local4": 7}
"""Bits of a weight in the layers that have nine tenths of all; other layers have 8."""
MOST_BYTES = 1_000_000
ROOT = Path(__file__).parents[1]
ROW = "shipped net"
"""Of the README's table of results."""


def write_run(run: Run, out: Path) -> None:
    """Write the run directory `out`: what using the network needs, and nothing else."""
    _, saved = run.load("best")
    tensors: dict[str, Tensor] = {}
    for name, tensor in saved.tensors.items():
        if name.endswith(".weight"):
            layer = name.removeprefix(MODEL).partition(".")[0]
            tensors |= quantize(name, tensor, BITS.get(layer, 8))
        else:
            tensors[name] = tensor
    (out / "checkpoints").mkdir(parents=True)
    shutil.copy(run.path / "mean_image.npy", out)
    data = {**run.info["data"], "path": "CIFAR-10"}  # not a path of the machine that trained
    info = json.dumps({**run.info, "data": data}, indent=2) + "\n"
    (out / "run.json").write_text(info, encoding="utf-8")
    checkpoint_store.write(out, tensors, saved.position)


def answers(run: Run, data: Path, views: int) -> Tensor:
    """Return the log probabilities of all classes for each test image: (N, classes) float64."""
    split = Dataset(data).split("test")
    batches = (split.read(range(len(split))[at : at + EVALUATION_BATCH]) for at in starts(split))
    model = run.load_model()
    return torch.cat(list(answer_batches(model, batches, run.preprocessing, view_count=views)))


def starts(split: Any) -> range:
    """Return the number of the first image of each batch."""
    return range(0, len(split), EVALUATION_BATCH)


def compare(run: Run, shipped: Run, data: Path) -> dict[str, Any]:
    """Measure the shipped run on the test images, and how far its answers are from the run's."""
    split, found = Dataset(data).split("test"), dict[str, Any]()
    for name, views in (("one_view", 1), ("ten_views", 10)):
        theirs, ours = answers(run, data, views), answers(shipped, data, views)
        errors = count_errors(split, ours, shipped.classes, views)
        found[name] = {
            "images": errors.images,
            "loss": errors.loss,
            "top1_error": errors.top1_error,
            "top5_error": errors.top5_error,
            "worst_class": max(errors.per_class, key=lambda row: row["top1_error"]),
            "mean_top_probability": float(ours.exp().amax(1).mean()),
            "other_answers": float((ours.argmax(1) != theirs.argmax(1)).double().mean()),
            "largest_probability_difference": float((ours.exp() - theirs.exp()).abs().max()),
        }
    return found


def card(result: dict[str, Any]) -> str:
    """Write the card from the recorded result."""
    classes, shipped = result["classes"], result["shipped"]
    one, ten = shipped["one_view"], shipped["ten_views"]
    worst, images = one["worst_class"], result["images"]
    rows = [
        f"| {name} | {percent(result['test'][key][measure])} | {percent(shipped[key][measure])} |"
        for name, key, measure in (
            ("top-1 error, one view", "one_view", "top1_error"),
            ("top-1 error, ten views", "ten_views", "top1_error"),
            ("top-5 error, one view", "one_view", "top5_error"),
            ("top-5 error, ten views", "ten_views", "top5_error"),
        )
    ]
    changed, changed_ten = (percent(each["other_answers"], 2) for each in (one, ten))
    moved, moved_ten = (f"{each['largest_probability_difference']:.3f}" for each in (one, ten))
    return f"""# The net that comes with the package

`{result["model"]}`, the paper's network for
[CIFAR-10](../../../docs/models.md#cifar10_13-and-cifar10_11), trained on that. `alexnet predict`
uses it without `--run`.

It takes every picture for one of {len(classes)} classes: {", ".join(classes)}.

| {one["images"]:,} test images | as trained | as shipped |
|---|--:|--:|
{chr(10).join(rows)}

- **Data**: CIFAR-10, original pixels, {images["train"]:,} training images. It states no licence and
  asks to cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. The
  weights are under the licence of this package.
- **Training**: `{result["command"]}`
  at commit {result["commit"]}: {result["epochs"]} epochs, {result["seconds"] / 60:,.0f} minutes, \
seed {result["seeds"][0]}; {result["hardware"]}.
- **Weights**: integers of 8 bits, 6 in `local3` and 7 in `local4`, with a float32 step for each
  filter; biases are float32. {shipped["bytes"]:,} bytes in place of {shipped["float32_bytes"]:,}.
  Of the test images {changed} get another class as the most probable, and no
  probability differs by more than {moved} (ten views: {changed_ten}, {moved_ten}).
- **Probabilities**: with one view the most probable class has \
{percent(one["mean_top_probability"])} on average and is right for \
{percent(1 - one["top1_error"])} (ten views: \
{percent(ten["mean_top_probability"])}, {percent(1 - ten["top1_error"])}).
  That holds for pictures such as CIFAR-10's alone.

## Limits

- It knows no other class: a person, a cup or a page of text gets one of the names, too, often with
  a high probability.
- It sees 24 x 24 pixels: the shorter side becomes 32, the centre is cut out. An object must fill
  most of the picture's middle; small objects, several of them, text and details are lost.
- The hardest class is {worst["class"]}: with one view {percent(worst["top1_error"])} of its test
  images are taken for another.
- CIFAR-10's pictures were collected from the web before 2009. The net is an example, and no basis
  for decisions about people, safety or money.

The figures are from `results/shipped_net/result.json`; `scripts/ship_net.py` wrote this page.
"""


def percent(value: float, digits: int = 1) -> str:
    """Write a share as percent."""
    return f"{value:.{digits}%}".replace("%", " %")


def ship(run: Run, data: Path, recorded: Path, out: Path) -> dict[str, Any]:
    """Write the folder `out` and the rest of result.json; return that. Nothing larger than 1 MB."""
    result: dict[str, Any] = json.loads((recorded / "result.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "run")
        write_run(run, made)
        shipped = Run.open(made)
        sizes = {path.name: path.stat().st_size for path in made.rglob("*") if path.is_file()}
        parameters = sum(weight.numel() for weight in shipped.load_model().parameters())
        result["classes"] = shipped.classes
        result["shipped"] = {
            "bytes": sum(sizes.values()),
            "float32_bytes": 4 * parameters,
            **compare(run, shipped, data),
        }
        (made / "README.md").write_text(card(result), encoding="utf-8")
        total = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        if total > MOST_BYTES:
            raise SystemExit(f"{total:,} bytes, at most {MOST_BYTES:,}: {sizes}")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)
    save_json(recorded / "result.json", result)
    return result


def update_readme(shipped: dict[str, Any]) -> None:
    """Put the errors with one view and ten into the README's row, and into the file of figures."""
    errors = [percent(shipped[views]["top1_error"]) for views in ("one_view", "ten_views")]
    for name, mark, cell in (("README.md", f"| [{ROW}]", "|"), ("results/figures.tsv", ROW, "\t")):
        lines = (ROOT / name).read_text(encoding="utf-8").split("\n")
        for at, line in enumerate(lines):
            cells = line.split(cell)
            if line.startswith(mark):
                cells[3:5] = [f" {errors[0]} ", f" {errors[1]:>8} "]
            elif f"{cell}{ROW}{cell}" in line and "top1_error" in line:
                cells[2] = errors["ten_views" in line]
            lines[at] = cell.join(cells)
        (ROOT / name).write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """Ship a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("recorded", type=Path, help="folder that scripts/record.py wrote")
    given = parser.parse_args()
    result = ship(Run.open(given.run), given.data, given.recorded, SHIPPED_RUN)
    update_readme(result["shipped"])
    print(f"{SHIPPED_RUN}: {result['shipped']['bytes']:,} bytes without the card")


if __name__ == "__main__":
    main()
