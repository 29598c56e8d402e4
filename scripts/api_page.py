"""The page of all public names for the site of `make docs`: from source code, never by hand."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import alexnet

Function = ast.FunctionDef | ast.AsyncFunctionDef


def write_api_page() -> str:
    """Return the page, in Markdown: functions, classes, errors."""
    names = [name for name in alexnet.__all__ if not name.startswith("_")]
    members = {name: getattr(alexnet, name) for name in names}
    errors = [name for name, member in members.items() if is_error(member)]
    classes = [name for name, member in members.items() if inspect.isclass(member)]
    groups = {
        "Functions": [name for name in names if name not in classes],
        "Classes": [name for name in classes if name not in errors],
        "Errors": errors,
    }
    lines = ["# Every public name", ""]
    lines += ["From the docstrings. [Python](../docs/python.md) has examples in order.", ""]
    for title, group in groups.items():
        lines += [f"## {title}", ""]
        for name in group:
            lines += [f"### alexnet.{name}", "", *describe(members[name]), ""]
    return "\n".join(lines)


def is_error(member: Any) -> bool:
    """Say whether a public name is an exception."""
    return inspect.isclass(member) and issubclass(member, BaseException)


def describe(member: Any) -> Iterator[str]:
    """Yield the lines about a function or a class."""
    if not inspect.isclass(member):
        node = parse(member)
        yield from block(signature(node)) if isinstance(node, Function) else ()
    yield inspect.getdoc(member) or ""
    if inspect.isclass(member):
        yield from fields(member)
        yield from methods(member)


def parse(member: Any) -> ast.stmt:
    """Return the definition of a function or class in its source code."""
    return ast.parse(textwrap.dedent(inspect.getsource(member))).body[0]


def block(code: str) -> list[str]:
    """Return a block of Python."""
    return ["```python", code, "```", ""]


def signature(node: Function) -> str:
    """Write a function's head as its source code has it, one argument to a line."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    lines = [argument(*pair) for pair in zip(plain, defaults, strict=True)]
    if given.vararg:
        lines.append("*" + argument(given.vararg, None))
    elif given.kwonlyargs:
        lines.append("*")
    lines += [argument(*pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    lines += ["**" + argument(given.kwarg, None)] if given.kwarg else []
    lines = [line for line in lines if line not in ("self", "cls")]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    inside = ", ".join(lines)
    if len(node.name + inside + returns) > 90:
        inside = "".join(f"\n    {line}," for line in lines) + "\n"
    return f"{node.name}({inside}){returns}"


def argument(arg: ast.arg, default: ast.expr | None) -> str:
    """Write an argument: name, type, default."""
    kind = f": {ast.unparse(arg.annotation)}" if arg.annotation else ""
    equals = " = " if kind else "="
    return f"{arg.arg}{kind}" + (f"{equals}{ast.unparse(default)}" if default else "")


def bodies(member: type) -> Iterator[list[ast.stmt]]:
    """Yield the statements of a class and of those that it extends, the last first."""
    for owner in reversed(member.__mro__):
        if owner.__module__.startswith("alexnet"):
            node = parse(owner)
            yield node.body if isinstance(node, ast.ClassDef) else []


def fields(member: type) -> Iterator[str]:
    """Yield the fields of a dataclass as a list, with the text that follows each.

    Those of `alexnet.Settings` are in its docstring.
    """
    described = inspect.getdoc(member) or ""
    for body in bodies(member):
        for one, following in zip(body, [*body[1:], None], strict=True):
            if not isinstance(one, ast.AnnAssign) or f"\n{ast.unparse(one.target)}: " in described:
                continue
            text = ast.get_docstring(ast.Module([following], [])) if following else None
            yield f"\n- `{ast.unparse(one.target)}: {ast.unparse(one.annotation)}`" + (
                f": {' '.join(text.split())}" if text else ""
            )


def methods(member: type) -> Iterator[str]:
    """Yield the public methods and properties of a class."""
    found: dict[str, Function] = {}
    for one in (statement for body in bodies(member) for statement in body):
        if isinstance(one, Function) and not one.name.startswith("_"):
            found[one.name] = one  # of overloads the last, which has the docstring
    for name, one in found.items():
        marks = {ast.unparse(mark).rpartition(".")[2] for mark in one.decorator_list}
        yield f"\n#### {name}\n"
        if not marks & {"property", "cached_property"}:
            yield from block(signature(one))
        yield ast.get_docstring(one) or ""
