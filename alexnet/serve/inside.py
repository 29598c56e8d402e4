"""What a network does with one image: maps, units, evidence, views. Plain JSON values."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.analysis.features import taps
from alexnet.analysis.figures.excitation import cut
from alexnet.analysis.figures.filters import in_words, learned
from alexnet.analysis.figures.pictures import enlarged, png_address, scaled, spotlight
from alexnet.analysis.figures.preferred import preferred_images
from alexnet.analysis.figures.saliency import grad_cam, occlusion_steps
from alexnet.analysis.figures.subject import activation_after, learning_rows, tower_count
from alexnet.analysis.receptive_fields import receptive_fields
from alexnet.analysis.summary import ACTIVATIONS, summarize
from alexnet.errors import UsageError
from alexnet.evaluate import view_logits
from alexnet.images import Pixels
from alexnet.images.filter_pictures import filter_pictures
from alexnet.predict import best_classes
from alexnet.serve.predictor import Predictor
from alexnet.transforms import views

MAPS = 48
"""Maps and units shown of a layer: those with the largest mean or value."""
MOST_FILTERS = 256
HIDDEN = ("Image", "Zero Padding", "Flatten", *ACTIVATIONS)
"""Rows of the network that show nothing of their own."""
TIMINGS = 5
OCCLUSION_BATCH = 37
"""The image and the 36 squares of the coarse grid; no weights are rearranged for so many images."""
SECONDS_OF_A_STEP = 0.25

Json = dict[str, Any]


def network_table(predictor: Predictor) -> Json:
    """Describe the network: its rows with shapes, parameters, fields of vision and time."""
    model = predictor.loaded.model
    summary, fields = summarize(model), receptive_fields(model)
    seconds = _row_seconds(predictor)
    rows = [
        {
            "name": row.name,
            "type": row.type,
            "activation": row.activation,
            "output": row.output,
            "kernel": row.kernel,
            "stride": row.stride,
            "groups": row.groups,
            "parameters": row.parameters,
            "macs": row.macs,
            "field": fields[row.name].size,
            "seconds": seconds[row.name],
            "has_maps": len(row.output) == 3,
            "has_filters": row.kernel is not None and row.parameters > 0,
            "learns": row.name in learning_rows(model),
        }
        for row in summary.layers
        if row.type not in HIDDEN
    ]
    return {
        "model": predictor.run.model_name,
        "input": summary.input,
        "parameters": summary.parameters,
        "macs": summary.macs,
        "rows": rows,
    }


@torch.inference_mode()
def _row_seconds(predictor: Predictor) -> dict[str, float]:
    """Measure how long each row takes for one image, with PyTorch's own layers."""
    crop, best = predictor.preprocessing.crop, dict[str, float]()
    for _ in range(TIMINGS):
        outputs = predictor.preprocessing.mean.new_zeros((1, 3, crop, crop))
        for name, row in predictor.loaded.model.named_children():
            start = time.perf_counter()
            outputs = row(outputs)
            elapsed = time.perf_counter() - start
            best[name] = min(elapsed, best.get(name, elapsed))
    return best


def _outputs(predictor: Predictor, image: Pixels, layer: str) -> NDArray[np.float32]:
    """Return a row's output for an image, after the activation that follows the row."""
    model = predictor.loaded.model
    row = activation_after(model, layer) if layer in learning_rows(model) else layer
    is_last = layer == learning_rows(model)[-1]
    with torch.inference_mode():
        found = taps(model, predictor.inputs(image), [layer if is_last else row])
    outputs: NDArray[np.float32] = next(iter(found.values()))[0].float().cpu().numpy()
    return outputs


def layer_of_image(predictor: Predictor, image: Pixels, layer: str) -> Json:
    """Return the strongest maps, or units, of a row for an image."""
    outputs = _outputs(predictor, image, layer)
    if outputs.ndim == 1:
        return _units(predictor, layer, outputs)
    order = np.argsort(-outputs.mean((1, 2)), kind="stable")[:MAPS]
    top = max(float(outputs.max()), 1e-12)
    maps = [
        {
            "unit": int(unit),
            "mean": float(outputs[unit].mean()),
            "largest": float(outputs[unit].max()),
            "picture": png_address(_shades(outputs[unit] / top)),
        }
        for unit in order
    ]
    return {"layer": layer, "shape": outputs.shape, "maps": maps}


def _units(predictor: Predictor, layer: str, values: NDArray[np.float32]) -> Json:
    """Return the strongest of a fully connected row's units, and a picture of all."""
    order = np.argsort(-values, kind="stable")[:MAPS]
    is_last = layer == learning_rows(predictor.loaded.model)[-1]
    titles = predictor.run.titles
    units = [
        {
            "unit": int(unit),
            "value": float(values[unit]),
            "title": titles[unit] if is_last else None,
        }
        for unit in order
    ]
    side = int(np.ceil(np.sqrt(len(values))))
    grid = np.zeros(side * side, np.float32)
    grid[: len(values)] = values / max(float(values.max()), 1e-12)
    picture = png_address(_shades(grid.reshape(side, side)))
    return {
        "layer": layer,
        "shape": values.shape,
        "active": int((values > 0).sum()),
        "units": units,
        "picture": picture,
    }


def _shades(values: NDArray[np.float32]) -> Pixels:
    """Return values (H, W) as grey pixels: 0 and below is black, 1 white."""
    grey: Pixels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return grey[..., None].repeat(3, axis=2)


def layer_filters(predictor: Predictor, layer: str) -> Json:
    """Return a convolution's filters, by tower: the first's in colour, others' strength in grey."""
    model = predictor.loaded.model
    if layer not in learning_rows(model):
        raise UsageError(f"{layer} has no filters")
    weights: NDArray[np.float32] = model.get_parameter(f"{layer}.weight").detach().cpu().numpy()
    if weights.ndim != 4:
        raise UsageError(f"{layer} has no filters")
    is_first = weights.shape[1] == 3
    words = "The filters in colour: grey is 0, each is scaled by its largest weight."
    if is_first:
        pictures = filter_pictures(weights)
        words = in_words([learned(part) for part in np.split(weights, _towers(model, weights))])
    else:
        strength = np.sqrt(np.square(weights).sum(1))
        shades = strength / strength.max((1, 2), keepdims=True).clip(1e-12)
        pictures = np.stack([_shades(each) for each in shades])
        words = (
            "How strong each filter's weights are at each place, over all maps that it reads; "
            "white is its strongest place."
        )
    shown = enlarged(pictures[:MOST_FILTERS], max(1, 44 // pictures.shape[1]))
    return {
        "layer": layer,
        "shape": weights.shape,
        "towers": _towers(model, weights),
        "colour": is_first,
        "words": words,
        "filters": [png_address(each) for each in shown],
    }


def _towers(model: nn.Sequential, weights: NDArray[np.float32]) -> int:
    towers = tower_count(model)
    return towers if len(weights) % towers == 0 else 1


def unit_of_image(predictor: Predictor, image: Pixels, layer: str, unit: int) -> Json:
    """Show where in an image a map fires, and what its most excited place sees."""
    outputs = _outputs(predictor, image, layer)
    check_unit(layer, unit, len(outputs))
    values, seen = outputs[unit], predictor.seen(image)
    known: Json = {"layer": layer, "unit": unit, "largest": float(values.max())}
    if outputs.ndim == 1:
        return known
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    window = receptive_fields(predictor.loaded.model)[layer].window(int(row), int(column))
    heat = torch.from_numpy(values)[None, None].clamp(min=0)
    size = seen.shape[:2]
    smooth = nn.functional.interpolate(heat, size, mode="bilinear", align_corners=False)
    return {
        **known,
        "place": (int(row), int(column)),
        "window": window,
        "side": seen.shape[0],
        "picture": png_address(_shown(spotlight(seen, smooth[0, 0].numpy()))),
        "patch": png_address(_shown(cut(seen, window))),
        "map": png_address(_shades(values / max(float(values.max()), 1e-12))),
    }


def preferred_image(predictor: Predictor, layer: str, unit: int) -> Json:
    """Make the image that excites a unit most."""
    model = predictor.loaded.model
    if layer not in learning_rows(model):
        raise UsageError(f"{layer} has no units of its own; name a row with weights")
    check_unit(layer, unit, int(model.get_parameter(f"{layer}.weight").shape[0]))
    field = receptive_fields(model)[layer]
    picture = preferred_images(model, predictor.preprocessing, layer, field, [unit])[0]
    return {"layer": layer, "unit": unit, "picture": png_address(_shown(picture))}


def check_unit(layer: str, unit: int, count: int) -> None:
    """Raise `UsageError` for a unit that a row does not have."""
    if not 0 <= unit < count:
        raise UsageError(f"{layer} has units 0 to {count - 1}, not {unit}")


def class_evidence(predictor: Predictor, image: Pixels, label: int) -> Json:
    """Show where in an image a class is seen, by Grad-CAM."""
    title = _class_name(predictor, label)
    heat = grad_cam(predictor.loaded.model, predictor.inputs(image)[0], label)
    picture = png_address(_shown(spotlight(predictor.seen(image), heat)))
    return {"kind": "grad-cam", "class": title, "largest": float(heat.max()), "picture": picture}


def occlusion(predictor: Predictor, image: Pixels, label: int) -> Iterator[Json]:
    """Show what a class loses where the image is covered: first roughly, then finer and finer."""
    title, seen = _class_name(predictor, label), predictor.seen(image)
    start = shown = time.perf_counter()
    inputs = predictor.inputs(image)[0]
    for known in occlusion_steps(predictor.loaded.patient, inputs, label, OCCLUSION_BATCH):
        now = time.perf_counter()
        if known.done == known.count or now - shown > SECONDS_OF_A_STEP:
            shown = now
            yield {
                "kind": "occlusion",
                "class": title,
                "largest": float(known.lost.max()),
                "picture": png_address(_shown(spotlight(seen, known.lost))),
                "done": known.done,
                "count": known.count,
                "side": known.side,
                "seconds": now - start,
            }


def _class_name(predictor: Predictor, label: int) -> str:
    if not 0 <= label < len(predictor.run.classes):
        raise UsageError(f"there are classes 0 to {len(predictor.run.classes) - 1}, not {label}")
    return predictor.run.classes[label]


def ten_views(predictor: Predictor, image: Pixels, top: int = 3) -> Json:
    """Return the answers of the paper's ten views of an image (P 4.1)."""
    own = predictor.preprocessing
    pixels = torch.from_numpy(image[None]).to(own.mean_image.device)
    precision = predictor.run.settings.precision
    logits = view_logits(predictor.loaded.model, pixels, own, 10, precision)
    each = logits[:, 0].double().softmax(1).cpu().numpy()
    found = [
        {
            "top": view.top,
            "left": view.left,
            "flip": view.flip,
            "side": own.crop,
            "predictions": _best(predictor, row, top),
        }
        for view, row in zip(views(own.size, own.crop, 10), each, strict=True)
    ]
    return {"views": found, "mean": _best(predictor, each.mean(0), 5)}


def _best(predictor: Predictor, row: NDArray[np.float64], top: int) -> Sequence[Json]:
    found = best_classes("", row, predictor.run, top)
    pairs = zip(found.titles, found.predictions, strict=True)
    return [{"title": title, "probability": value} for title, (_, value) in pairs]


def _shown(picture: Pixels) -> Pixels:
    """Enlarge a small picture so that a browser need not."""
    return scaled(picture, 112) if picture.shape[0] < 56 else picture
