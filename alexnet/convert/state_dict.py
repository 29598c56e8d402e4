"""Finding the weights in a checkpoint: in which container they lie, under which names.

Training scripts and their libraries put containers ("state_dict", "ema") around the weights and
prefixes ("module.", "_orig_mod.", "model.") before their names. What is in the file decides. A file
with several sets of weights is refused with a list of them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from alexnet.errors import CheckpointError

TORCHVISION_NAMES = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that DataParallel, torch.compile, FSDP and activation checkpointing insert."""
COUNTERS = {"n_averaged"}
"""Tensors that are no weights: torch's AveragedModel counts in it."""

_OURS = re.compile(r"(conv|local|fc)\d+")
_LAYERS = 5
"""Of the smallest network."""
_DEPTH = 4


def find_state_dict(content: object) -> dict[str, Tensor]:
    """Return the one state dict in what torch.save wrote, its names without wrappers.

    Raises `CheckpointError` where there is none, or several.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not weights by name")
    found = dict(_state_dicts(content, (), set()))
    if len(found) > 1:
        raise CheckpointError(
            f"holds {len(found)} sets of weights: {_list_sets(found)}; save the one that is meant "
            f"in a file of its own: torch.save(checkpoint[NAME], FILE)"
        )
    state = next(iter(found.values())) if found else _tensors(content)
    if content and not state:
        kinds = [f"{str(name)[:40]} ({type(value).__name__})" for name, value in content.items()]
        raise CheckpointError(f"holds no weights by name, only {_shorten(kinds, most=16)}")
    return clean_names(state)


def clean_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove wrappers and the network's prefix from the names of tensors.

    Raises `CheckpointError` if two tensors get one name, or if there are several networks.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        clean = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if clean in named:
            raise CheckpointError(f"holds {clean} twice, with and without a prefix")
        if clean not in COUNTERS:
            named[clean] = tensor
    prefix = _network_prefix(named)
    return {name.removeprefix(prefix): tensor for name, tensor in named.items()}


def describe_tensors(tensors: Mapping[str, Tensor], most: int = 4) -> str:
    """List tensors, at most `most`, with their shapes: "16 tensors: conv1.weight 64x3x11x11, "."""
    shapes = [
        f"{name[:80]} {'x'.join(map(str, t.shape)) or 'a number'}" for name, t in tensors.items()
    ]
    return f"{len(shapes)} tensors: {_shorten(shapes, most)}"


def _network_prefix(named: dict[str, Tensor]) -> str:
    """Return what stands before the names of the network's layers, "model." for example."""
    layers = {name.rpartition(".")[0] for name in named}
    counts = Counter(prefix for layer in layers if (prefix := _prefix(layer)) is not None)
    whole = [prefix for prefix, count in counts.items() if count >= _LAYERS]
    if len(whole) > 1:
        sets = {
            prefix or "no prefix": {
                name: t for name, t in named.items() if _prefix(name.rpartition(".")[0]) == prefix
            }
            for prefix in sorted(whole)
        }
        raise CheckpointError(
            f"holds networks under {len(sets)} prefixes: {_list_sets(sets)}; save the one that is "
            f"meant in a file of its own: torch.save(network.state_dict(), FILE)"
        )
    return "".join(whole or (counts if len(counts) == 1 else ""))


def _prefix(layer: str) -> str | None:
    """Return what stands before a layer's name; None where it is not one of an AlexNet."""
    parts = layer.split(".")
    for start in range(len(parts)):
        if ".".join(parts[start:]) in TORCHVISION_NAMES or (
            start == len(parts) - 1 and _OURS.fullmatch(parts[start])
        ):
            return "".join(f"{part}." for part in parts[:start])
    return None


def _state_dicts(
    content: Mapping[Any, Any], path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each mapping in `content` that holds a layer's weight, with its name."""
    if id(content) in seen or len(path) > _DEPTH:
        return
    seen.add(id(content))  # a crafted file can hold one mapping very often
    tensors = _tensors(content)
    if any(key.endswith(".weight") for key in tensors):
        yield ".".join(path), tensors
        return
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _state_dicts(value, (*path, str(key)), seen)


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _list_sets(sets: Mapping[str, Mapping[str, Tensor]]) -> str:
    return _shorten([f"{name[:80]} ({describe_tensors(sets[name])})" for name in sets], most=4)


def _shorten(texts: list[str], most: int) -> str:
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return ", ".join([*texts[:most], *more])
