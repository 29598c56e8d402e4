"""AlexNet, complete: images, packed data set, training, evaluation, prediction.

Each stage is one function: `prepare_dataset`, `train_model`, `evaluate_run`, `predict_images`.
A public name is imported when it is first used, so that `import alexnet` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.config import Settings as Settings
    from alexnet.config import override as override
    from alexnet.convert import ExportReport as ExportReport
    from alexnet.convert import ImportReport as ImportReport
    from alexnet.convert import export_run as export_run
    from alexnet.convert import import_weights as import_weights
    from alexnet.dataset import Dataset as Dataset
    from alexnet.demo import run_demo as run_demo
    from alexnet.doctor import Diagnosis as Diagnosis
    from alexnet.doctor import diagnose as diagnose
    from alexnet.errors import AlexnetError as AlexnetError
    from alexnet.errors import CheckpointError as CheckpointError
    from alexnet.errors import DataError as DataError
    from alexnet.errors import DivergedError as DivergedError
    from alexnet.errors import Interrupted as Interrupted
    from alexnet.errors import StorageError as StorageError
    from alexnet.errors import UsageError as UsageError
    from alexnet.errors import WorkerError as WorkerError
    from alexnet.evaluate import Evaluation as Evaluation
    from alexnet.evaluate import evaluate_run as evaluate_run
    from alexnet.features import extract_features as extract_features
    from alexnet.kernels import accelerate as accelerate
    from alexnet.model import create_model as create_model
    from alexnet.model import list_models as list_models
    from alexnet.predict import Prediction as Prediction
    from alexnet.predict import predict_images as predict_images
    from alexnet.prepare import PrepareReport as PrepareReport
    from alexnet.prepare import prepare_dataset as prepare_dataset
    from alexnet.progress import Progress as Progress
    from alexnet.recipes import list_recipes as list_recipes
    from alexnet.recipes import recipe as recipe
    from alexnet.run import Run as Run
    from alexnet.summary import Summary as Summary
    from alexnet.summary import summarize as summarize
    from alexnet.train import TrainReport as TrainReport
    from alexnet.train import train_model as train_model

    __version__: str

# The same list for run time: where each name lives. A test compares the two.
_HOMES = {
    "AlexnetError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "Dataset": "dataset",
    "Diagnosis": "doctor",
    "DivergedError": "errors",
    "Evaluation": "evaluate",
    "ExportReport": "convert",
    "ImportReport": "convert",
    "Interrupted": "errors",
    "Prediction": "predict",
    "PrepareReport": "prepare",
    "Progress": "progress",
    "Run": "run",
    "Settings": "config",
    "StorageError": "errors",
    "Summary": "summary",
    "TrainReport": "train",
    "UsageError": "errors",
    "WorkerError": "errors",
    "accelerate": "kernels",
    "create_model": "model",
    "diagnose": "doctor",
    "evaluate_run": "evaluate",
    "export_run": "convert",
    "extract_features": "features",
    "import_weights": "convert",
    "list_models": "model",
    "list_recipes": "recipes",
    "override": "config",
    "predict_images": "predict",
    "prepare_dataset": "prepare",
    "recipe": "recipes",
    "run_demo": "demo",
    "summarize": "summary",
    "train_model": "train",
}

__all__ = list(_HOMES)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, and keep it."""
    if name == "__version__":
        from importlib.metadata import version  # slower to import than all the rest

        value: Any = version("alexnet")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"alexnet.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, whether they have been used or not."""
    return sorted({*globals(), *__all__})
