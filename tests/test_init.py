"""The public names of the package, and that importing it costs nothing."""

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import alexnet

ROOT = Path(__file__).parent.parent


def test_every_public_name_can_be_imported_and_has_a_docstring() -> None:
    assert len(alexnet.__all__) == len(set(alexnet.__all__)) > 30
    assert dir(alexnet) == sorted(alexnet.__all__)
    for name in alexnet.__all__:
        value = getattr(alexnet, name)
        assert name == "__version__" or inspect.getdoc(value)


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert alexnet.__version__ == project["version"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="resnet"):
        getattr(alexnet, "resnet")  # noqa: B009 - the type checker knows that it is not there


@pytest.mark.parametrize(
    "statement",
    [
        "import alexnet; alexnet.__version__; alexnet.Settings(); alexnet.list_recipes()",
        "from alexnet.cli import main; assert main(['--help']) == 0",
        "from alexnet.cli import main; assert main(['train', '--help']) == 0",
        "from alexnet.cli import main; assert main(['trian']) == 2",
        "from alexnet.cli import main; assert main(['train', 'none', 'run']) == 3",
        "from alexnet.cli import main; assert main(['train', 'none', 'run', '--lr', 'x']) == 2",
        "from alexnet.cli import main; assert main(['train', 'none', 'run', '--bias-lr=1']) == 2",
        "from alexnet.cli import main; assert main(['evaluate', 'none', 'none']) == 4",
        "from alexnet.cli import main; assert main(['summary', '--model', 'vgg']) == 2",
        "from alexnet.cli import main; assert main(['plan', '--model', 'vgg']) == 2",
        "from alexnet.cli import main; assert main(['bench', 'everything']) == 2",
        "from alexnet.cli import main; assert main(['doctor', 'none']) == 2",
    ],
)
def test_what_needs_no_network_does_not_load_torch_or_pillow(statement: str) -> None:
    script = (
        f"{statement}\nimport sys; print(sorted({{'torch', 'PIL', 'numpy'}} & {{*sys.modules}}))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
