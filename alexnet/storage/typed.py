"""Checking values against type hints: settings come from Python, from text and from JSON."""

from typing import Any, Literal, get_args, get_origin

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
