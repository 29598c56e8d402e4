"""AlexNet (Krizhevsky, Sutskever, Hinton 2012): prepare, train, evaluate, predict.

Each stage is one function: `prepare_dataset`, `train_model`, `evaluate_run`, `predict_images`.
`__init__.pyi` lists the public names; each is imported when it is first used, so that
`import alexnet` is quick.
"""

from typing import Any

import lazy_loader

_load, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from alexnet.storage.environment import package_version  # slower to import than the rest

        return package_version()
    return _load(name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
