"""The Dockerfile holds together: what it copies and starts is there. No image is built."""

import json
import re
import tomllib
from pathlib import Path

from document_checks import try_command

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
STEPS = re.findall(r"^([A-Z]+) +(.+)$", TEXT, re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def values(instruction: str) -> list[str]:
    return [value for name, value in STEPS if name == instruction]


def test_every_line_is_an_instruction_or_a_comment() -> None:
    known = ["FROM", "RUN", "COPY", "USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"]
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(STEPS)
    assert {name for name, _ in STEPS} == set(known)


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    sources = {name for value in values("COPY") for name in value.split()[:-1]}
    assert all((ROOT / name).exists() for name in sources)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == sources
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"} <= sources


def test_torch_and_python_are_those_that_the_project_asks_for() -> None:
    assert any(torch in TEXT for torch in PROJECT["dependencies"] if torch.startswith("torch"))
    (base,) = values("FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim", base)
    assert version
    assert int(version[1]) >= int(PROJECT["requires-python"].removeprefix(">=3."))


def test_the_server_has_no_rights_and_is_asked_for_its_health() -> None:
    names = [name for name, _ in STEPS]
    assert values("USER") == ["alexnet"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    (port,) = values("EXPOSE")
    (check,) = values("HEALTHCHECK")
    assert f"http://127.0.0.1:{port}/health" in check
    compile(json.loads(check.partition("CMD ")[2])[2], "health check", "exec")


def test_it_starts_the_server_on_all_addresses() -> None:
    program, *words = json.loads(*values("ENTRYPOINT"))
    assert program in PROJECT["scripts"]
    assert words[words.index("--host") + 1] == "0.0.0.0"
    assert words[words.index("--port") + 1] == values("EXPOSE")[0]
    assert try_command(" ".join(words)) is None
    extras = re.findall(r"/src\[(.+?)\]", TEXT)[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
