"""Networks in Python: with new weights or published ones, and with torchvision's names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from alexnet.convert.state_dict import TORCHVISION_NAMES
from alexnet.errors import UsageError
from alexnet.networks import registry
from alexnet.networks.initialization import weight_layers
from alexnet.progress import SILENT, Progress
from alexnet.python.run import Run


def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    ablate: Mapping[str, str] | None = None,
    pretrained: bool = False,
    mirror: str | Path | None = None,
    progress: Progress = SILENT,
) -> nn.Sequential:
    """Build the network called `name`, with weights drawn by torch's global generator.

    It takes (N, 3, height, width) floats, RGB, 0-255, less the training mean, and returns logits of
    `num_classes` (1000). `ablate` removes or replaces parts, such as {"activation": "tanh", "norm":
    "none"}: see `alexnet.networks.ablation`. `pretrained` takes the weights of
    `Run.pretrained`, which has their classes and preprocessing; with another `num_classes` the last
    layer is new. `mirror` and `progress` are for their download.
    `load_state_dict` of the network also takes torchvision's names (features.0.weight).
    Raises `UsageError` for an unknown name, no classes, and where no weights are published.
    """
    if not pretrained:
        classes = 1000 if num_classes is None else num_classes
        return _taking_torchvision_names(registry.create_model(name, classes, ablate=ablate))
    if ablate:
        raise UsageError("pretrained weights are those of the whole network: leave out ablate")
    run = Run.pretrained(name, mirror=mirror, progress=progress)
    model = run.load_model()
    if num_classes not in (None, len(run.classes)):
        model = _with_new_last_layer(name, model, num_classes)
    return _taking_torchvision_names(model)


def _with_new_last_layer(name: str, trained: nn.Sequential, num_classes: int) -> nn.Sequential:
    """Return a network of `num_classes` with the weights of `trained` in all but the last layer."""
    model = registry.create_model(name, num_classes)
    last = f"{weight_layers(model)[-1][0]}."
    weights = {key: t for key, t in trained.state_dict().items() if not key.startswith(last)}
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _taking_torchvision_names(model: nn.Sequential) -> nn.Sequential:
    model.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]
    return model


def _rename(_: nn.Module, weights: dict[str, Any], prefix: str, *_rest: object) -> None:
    """Give the tensors of a state dict of torchvision's AlexNet the names of the rows here."""
    for theirs, ours in TORCHVISION_NAMES.items():
        for part in ("weight", "bias"):
            if f"{prefix}{theirs}.{part}" in weights:
                tensor = weights.pop(f"{prefix}{theirs}.{part}")
                weights[f"{prefix}{ours}.{part}"] = tensor
