"""Settings: checking values against type hints, and describing the fields of a dataclass.

Values come from Python, from text and from JSON.
"""

import ast
import dataclasses
import inspect
import sys
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args, get_origin

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def is_of_type(value: object, kind: Any) -> bool:
    """Tell whether `value` is of the type `kind`, a hint; lists count as tuples, as in JSON.

    A whole number is a number, but true and false are neither.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple | list) and all(is_of_type(v, inner[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_of_type(name, inner[0]) and is_of_type(v, inner[1]) for name, v in value.items()
        )
    if kind in (int, float):
        accepted = int if kind is int else int | float
        return isinstance(value, accepted) and not isinstance(value, bool)
    return isinstance(value, kind)


def describe_type(kind: Any) -> str:
    """Describe a type hint: "a whole number", "one of a, b", "a list, each a whole number"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        return f"a list, each {describe_type(inner[0])}"
    if origin is dict:
        return f"a dictionary of names, each with {describe_type(inner[1])}"
    return NAMES.get(kind, f"an {kind.__name__}")


class FieldText(NamedTuple):
    """What the source says of a field of a dataclass."""

    kind: str
    """Its type, as written."""
    meaning: str
    """The docstring below it, as one line."""


class Listed:
    """Makes a dataclass, all of whose fields are inherited, list them in its documentation.

    Its repr has only the fields that are not as by default. Needs `@dataclass(repr=False)`.
    """

    def __init_subclass__(cls) -> None:
        """Read the docstrings of the fields, and append them to that of the class."""
        super().__init_subclass__()
        texts = field_texts(cls)
        lines = [f"{name}: {text.kind}\n    {text.meaning}" for name, text in texts.items()]
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", *lines])

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = [(each.name, getattr(self, each.name), default_of(each)) for each in fields]
        changed = [f"{name}={value!r}" for name, value, default in values if value != default]
        return f"{type(self).__name__}({', '.join(changed)})"


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """Return the default value of a field, which has one."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def field_texts(kind: type) -> dict[str, FieldText]:
    """Read the types and docstrings of all fields from the source of the module of `kind`.

    Returns nothing where Python has no source.
    """
    try:
        tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    except (OSError, TypeError, KeyError):
        return {}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    texts = {}
    for base in reversed(kind.__mro__):
        body = classes[base.__name__].body if base.__name__ in classes else []
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                meaning = " ".join(str(ast.literal_eval(text.value)).split())
                texts[ast.unparse(field.target)] = FieldText(ast.unparse(field.annotation), meaning)
    return texts
