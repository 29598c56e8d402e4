"""The card inside exported files: what is needed to use the weights, as texts by key.

With it the import of an exported file needs no options.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from alexnet.errors import CheckpointError, UsageError
from alexnet.storage.environment import package_version
from alexnet.storage.run import preprocessing_as_json, preprocessing_from_json
from alexnet.transforms import Preprocessing

MODEL_KEY = "alexnet_model"


@dataclass(frozen=True)
class Card:
    """The network that weights belong to, its classes and its preprocessing."""

    model: str
    ablate: dict[str, str]
    """The changes to that network (`alexnet.networks.ablation`)."""
    classes: tuple[str, ...]
    titles: tuple[str, ...]
    preprocessing: Preprocessing
    source: str
    """SHA-256 of the checkpoint that the weights come from."""

    def as_texts(self) -> dict[str, str]:
        """Write the card; the inverse of `read_card`."""
        mean_image = self.preprocessing.mean_image.cpu().float()
        values = preprocessing_as_json(self.preprocessing)
        values |= {"channels": "RGB", "range": "0-255", "mean": mean_image.mean((1, 2)).tolist()}
        constant = bool((mean_image == mean_image[:, :1, :1]).all())
        return {
            MODEL_KEY: self.model,
            "alexnet_ablate": json.dumps(self.ablate),
            "alexnet_version": package_version(),
            "alexnet_classes": json.dumps(self.classes),
            "alexnet_titles": json.dumps(self.titles),
            "alexnet_preprocessing": json.dumps(values),
            # (3, size, size) little-endian float32; empty where each colour has one value.
            "alexnet_mean_image": ""
            if constant
            else base64.b64encode(mean_image.numpy().astype("<f4").tobytes()).decode(),
            "alexnet_source_sha256": self.source,
        }


def read_card(texts: Mapping[str, str]) -> Card | None:
    """Read the texts of `as_texts`; return None where there is no card.

    Raises `CheckpointError` for a damaged one.
    """
    if MODEL_KEY not in texts:
        return None
    try:
        values = json.loads(texts["alexnet_preprocessing"])
        return Card(
            model=texts[MODEL_KEY],
            ablate={str(k): str(v) for k, v in dict(json.loads(texts["alexnet_ablate"])).items()},
            classes=tuple(map(str, json.loads(texts["alexnet_classes"]))),
            titles=tuple(map(str, json.loads(texts["alexnet_titles"]))),
            preprocessing=preprocessing_from_json(values, _read_mean(texts, values)),
            source=texts["alexnet_source_sha256"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError, binascii.Error, UsageError) as error:
        raise CheckpointError(f"has a damaged description: {error!r}") from None


def _read_mean(texts: Mapping[str, str], values: dict[str, object]) -> torch.Tensor:
    size, crop = values["size"], values["crop"]
    if not isinstance(size, int) or not isinstance(crop, int) or not 0 < size <= 4096:
        raise ValueError(f"images of side {size}")
    if encoded := texts["alexnet_mean_image"]:
        data = np.frombuffer(base64.b64decode(encoded, validate=True), "<f4")
        mean_image = torch.from_numpy(data.astype(np.float32)).reshape(3, size, size)
    else:
        color = torch.tensor(values["mean"], dtype=torch.float32)
        mean_image = color.reshape(3, 1, 1).repeat(1, size, size)
    if not mean_image.isfinite().all():
        raise ValueError("a mean that is not finite")
    return mean_image
