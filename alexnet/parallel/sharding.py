"""Sharding a network: this rank's part of it, with the same layer names."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from alexnet.errors import UsageError
from alexnet.networks.layers import LocalResponseNorm
from alexnet.networks.layers_2012 import GroupedLinear, PaperDropout
from alexnet.parallel.exchange import Batch, BorderNorm, Gather, RankGroup, SharedDropout

TOWERS = 2


@dataclass(frozen=True)
class Shard:
    """A rank's part of a network."""

    model: nn.Sequential
    divided: frozenset[str]
    """The tensors of the state dict that are divided along their first dimension."""


def shard_images(model: nn.Sequential, batch: Batch, data: RankGroup) -> Shard:
    """Return the whole network, for a part of each batch's images."""
    _refuse_batch_norm(model, data)
    layers = [
        (name, SharedDropout(layer, batch, rows=data, units=None) if _is_dropout(layer) else layer)
        for name, layer in model.named_children()
    ]
    return Shard(nn.Sequential(OrderedDict(layers)), frozenset())


def shard_towers(model: nn.Sequential, batch: Batch, data: RankGroup, towers: RankGroup) -> Shard:
    """Return one of the paper's two towers: half of each layer's kernels and units.

    A layer in two groups belongs to the tower. A layer that reads both towers follows a `Gather`.
    Raises `UsageError` for a network without two towers.
    """
    layers = dict(model.named_children())
    grouped = [name for name, each in layers.items() if getattr(each, "groups", 1) == TOWERS]
    if not grouped:
        raise UsageError(
            "towers needs a network of two towers, such as alexnet, alexnet_2012, alexnet_nocomm "
            "or alexnet_small; this one has no layer in two groups: use --parallel data or hybrid"
        )
    _refuse_batch_norm(model, data)
    first = next(name for name, layer in layers.items() if isinstance(layer, nn.Conv2d))
    return _Sharder(batch, data, towers).shard(layers, first, gather_images=False)


def shard_units(model: nn.Sequential, batch: Batch, data: RankGroup, units: RankGroup) -> Shard:
    """Return the whole convolutions, for a part of the images, and part of the other layers.

    From the first fully connected layer on, this rank has some units of each layer, for all images.
    Raises `UsageError` for a network without fully connected layers, or with one in groups.
    """
    layers = dict(model.named_children())
    first = next((name for name, each in layers.items() if isinstance(each, nn.Linear)), None)
    if first is None or any(isinstance(layer, GroupedLinear) for layer in layers.values()):
        raise UsageError(
            "hybrid divides fully connected layers that read all of the layer before; this network "
            "has none, or has one in groups: use --parallel data or towers"
        )
    _refuse_batch_norm(model, data)
    return _Sharder(batch, data, units).shard(layers, first, gather_images=True)


def tower_order(model: nn.Sequential, layer: str = "conv1") -> list[list[int]]:
    """List the kernels of `layer` by tower: 48 above and 48 below in the paper's figure 3.

    Each tower is half of the channels, as the groups of the layers after it connect them.
    """
    kernels = len(model.get_submodule(layer).get_parameter("weight"))
    return [list(range(kernels // 2)), list(range(kernels // 2, kernels))]


class _Sharder:
    def __init__(self, batch: Batch, data: RankGroup, group: RankGroup) -> None:
        self.batch, self.data, self.group = batch, data, group

    def shard(self, layers: dict[str, nn.Module], first: str, *, gather_images: bool) -> Shard:
        """Divide every layer from `first` on.

        With `gather_images` each rank has part of the images before `first`, and all from there.
        """
        out: OrderedDict[str, nn.Module] = OrderedDict()
        divided: set[str] = set()
        reached, units = False, 0  # units of the whole layer before, if it is divided
        for name, layer in layers.items():
            reached = reached or name == first
            images = None if reached and gather_images else self.data
            if name == first and gather_images:
                out[f"gather_{name}"] = Gather(self.group, name, self.batch, None)
            if reached and any(True for _ in layer.parameters()):
                if units and not self._grouped(layer):
                    out[f"gather_{name}"] = Gather(self.group, name, self.batch, units_in(layer))
                out[name], units = self._weight_part(name, layer), units_out(layer)
                divided |= {f"{name}.{key}" for key in layer.state_dict()}
            elif _is_dropout(layer):
                part = (self.group, units) if units else None
                out[name] = SharedDropout(layer, self.batch, rows=images, units=part)
            elif units:
                out[name] = self._unweighted_part(name, layer)
                divided |= {f"{name}.{key}" for key in layer.state_dict()}
            else:
                out[name] = layer
        out["gather_logits"] = Gather(self.group, "logits", self.batch, units, final=True)
        return Shard(nn.Sequential(out), frozenset(divided))

    def _grouped(self, layer: nn.Module) -> bool:
        return getattr(layer, "groups", 1) == self.group.size > 1

    @torch.no_grad()
    def _weight_part(self, name: str, layer: nn.Module) -> nn.Module:
        """Return a layer with this rank's part of the outputs."""
        own = self.group.part(units_out(layer))
        groups = getattr(layer, "groups", 1)
        count, inputs = own.stop - own.start, units_in(layer) // groups
        fits = groups == 1 or (self._grouped(layer) and units_out(layer) % groups == 0)
        if not fits or not isinstance(layer, nn.Conv2d | nn.Linear | GroupedLinear):
            raise UsageError(f"{name} cannot be divided over {self.group.size} ranks")
        part: nn.Module
        if isinstance(layer, nn.Conv2d):
            shape = {"stride": layer.stride, "padding": layer.padding}
            part = _empty(nn.Conv2d, inputs, count, layer.kernel_size, like=layer, **shape)
        else:
            part = _empty(nn.Linear, inputs, count, like=layer)
        for key, tensor in part.state_dict().items():
            tensor.copy_(layer.state_dict()[key][own])
        return part

    def _unweighted_part(self, name: str, layer: nn.Module) -> nn.Module:
        """Return this rank's form of a layer without weights."""
        if isinstance(layer, LocalResponseNorm):
            if layer.towers == 1:
                return BorderNorm(layer, self.group, name)
            return LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
        if isinstance(layer, nn.BatchNorm2d):
            own = self.group.part(layer.num_features)
            return nn.BatchNorm2d(own.stop - own.start, affine=False)
        return layer


def _empty(kind: type[nn.Module], *arguments: Any, like: nn.Module, **options: Any) -> nn.Module:
    """Build a layer with uninitialised weights of the dtype and on the device of `like`."""
    weight = like.get_parameter("weight")
    options |= {"dtype": weight.dtype, "device": weight.device}
    layer: nn.Module = skip_init(kind, *arguments, **options)  # type: ignore[no-untyped-call]
    return layer


def units_in(layer: nn.Module) -> int:
    """Return the number of maps or units that a layer reads."""
    return int(getattr(layer, "in_channels", 0) or getattr(layer, "in_features", 0))


def units_out(layer: nn.Module) -> int:
    """Return the number of maps or units of a layer."""
    return int(getattr(layer, "out_channels", 0) or getattr(layer, "out_features", 0))


def _is_dropout(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Dropout | PaperDropout)


def _refuse_batch_norm(model: nn.Sequential, data: RankGroup) -> None:
    if data.size > 1 and any(isinstance(layer, nn.BatchNorm2d) for layer in model):
        raise UsageError(
            "batch normalisation needs the whole batch, which --parallel divides over the ranks: "
            "train on one device"
        )
