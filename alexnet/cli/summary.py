"""`alexnet summary`: the network as a table."""

from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table

from alexnet.cli.console import fits, plain_table, print_json, stdout
from alexnet.cli.options import NETWORKS, Json, check_model, flag, option
from alexnet.errors import UsageError

if TYPE_CHECKING:
    from alexnet.analysis.differences import Value
    from alexnet.analysis.receptive_fields import Field
    from alexnet.analysis.summary import Row, Summary

Network = Annotated[str, option("--model NAME", NETWORKS)]
Classes = Annotated[int, option("--classes N", "Number of classes: the units of the last layer.")]
Ablate = Annotated[
    list[str] | None,
    option(
        "--ablate PART=KIND",
        "Change a part of the network: activation, norm, overlap or without. Can be repeated. An "
        "unknown one lists all of them.",
    ),
]
Diff = Annotated[
    tuple[str, str] | None,
    option("--diff A B", "Show how network B differs from A; --ablate changes only B."),
]

Fields = Annotated[
    bool,
    flag("--receptive-fields", "Show which pixels of the image a unit of each layer can see."),
]


def summary(
    model: Network = "alexnet",
    classes: Classes = 1000,
    ablate: Ablate = None,
    diff: Diff = None,
    receptive_fields: Fields = False,
    json: Json = False,
) -> None:
    """Show a network as a table.

    Lists each layer with kernel, stride, padding, groups, activation, output
    size, parameters and multiply-adds, measured on the live network.

    Examples:

      alexnet summary
      alexnet summary --model cifar10_11 --classes 10
      alexnet summary --diff alexnet caffenet
      alexnet summary --ablate overlap=no --json
      alexnet summary --model alexnet_2012 --receptive-fields
    """
    check_model(*(diff or [model]))
    if diff is not None and receptive_fields:
        raise UsageError("--receptive-fields shows one network, --diff two: name one of them")
    from alexnet.analysis.differences import as_json
    from alexnet.analysis.summary import summarize

    changes = dict(text.partition("=")[::2] for text in ablate or [])
    if diff is not None:
        pair = summarize(diff[0], classes), summarize(diff[1], classes, ablate=changes)
        if json:
            print_json(as_json(*pair))
        else:
            show_differences(*pair, stdout())
        return
    if receptive_fields:
        show_fields(model, changes, as_json=json)
        return
    result = summarize(model, classes, ablate=changes)
    if json:
        print_json(result.as_json())
    else:
        show(result, stdout())


def show_fields(model: str, changes: dict[str, str], *, as_json: bool) -> None:
    """Print the receptive field of each row's units."""
    from alexnet.analysis.receptive_fields import fields_and_shapes
    from alexnet.analysis.summary import build_without_memory

    found = list(fields_and_shapes(build_without_memory(model, 1000, changes)))
    if as_json:
        rows = [{"name": name, "output": shape, **field.as_json()} for name, field, shape in found]
        print_json({"model": model, "receptive_fields": rows})
        return
    columns = ("output", "field", "stride", "first pixel", "center")
    table = plain_table("layer", *columns, right=columns, least=("center", "output"))
    for name, field, shape in found:
        table.add_row(name, size_text(shape), *field_texts(field))
    stdout().print(table)
    stdout().print(
        "\nIn pixels of the image. The first pixel and the center are those of the first unit; "
        "below 0 is padding."
    )


def field_texts(field: "Field") -> list[str]:
    """Write size, stride, first pixel and center of a field; one number where both are equal."""
    pairs = (field.stride, field.start, field.center)
    texts = [f"{a:g}" if a == b else f"{a:g}, {b:g}" for a, b in pairs]
    return [size_text(field.size), *texts]


def show_differences(first: "Summary", second: "Summary", console: Console) -> None:
    """Print how two networks differ, a line for each difference, and their totals."""
    from alexnet.analysis.differences import find_differences

    table = plain_table("row", "what", first.model, second.model)
    for column in table.columns[2:]:
        column.no_wrap = False  # the name of a changed network can be long
    last = ""
    found = find_differences(first, second)
    for each in found:
        cells = [value_text(each.what, value) for value in each.values]
        table.add_row("" if each.row == last else each.row, each.what, *cells)
        last = each.row
    console.print(table if found else "Their rows are the same.")
    console.print(f"\n{totals(first)}\n{totals(second)}")


def value_text(what: str, value: "Value") -> str:
    """Write a value of a difference as the layer table does; "-" for none."""
    match what, value:
        case _, None:
            return "PyTorch's own" if what == "start" else "-"
        case _, {"std": std, "bias": bias}:
            return f"std {std:g}, bias {bias:g}"
        case "padding", (top, bottom, left, right):
            return padding_text((top, bottom, left, right))
        case _, tuple():
            return size_text(value)
        case _, bool():
            return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def totals(summary: "Summary") -> str:
    """Write a network's totals in one line."""
    return (
        f"{summary.model}: {summary.parameters:,} parameters, {summary.neurons:,} neurons, "
        f"{summary.macs:,} MACs"
    )


def show(summary: "Summary", console: Console) -> None:
    """Print the table and totals; types that do not fit into the table follow below it."""
    table = layer_table(summary, types=True)
    if fits(table, console):
        console.print(table)
    else:
        names = ((row.name.rpartition(".")[2], row.type) for row in rows_to_show(summary))
        kinds = {name.rstrip("0123456789"): kind for name, kind in names}
        legend = [f"{name}: {kind}" for name, kind in kinds.items() if name != kind.lower()]
        console.print(layer_table(summary, types=False))
        console.print("\n" + ", ".join(legend))
    console.print(
        f"\n{totals(summary)}\n"
        "MACs: multiply-adds for one image. The last layer gives logits, before softmax."
    )


def layer_table(summary: "Summary", *, types: bool) -> Table:
    """Lay out a row for each layer; its activation and dropout are a column."""
    sizes = ("kernel", "stride", "pad", "groups")
    counts = ("output", "parameters", "MACs")
    names = ("layer", *(["type"] if types else []), *sizes, "activation", *counts)
    least = ("pad", "groups", "stride", "activation", "kernel")
    table = plain_table(*names, right=(*sizes, *counts), gap=1, least=least)
    for row in rows_to_show(summary):
        table.add_row(
            row.name,
            *([row.type] if types else []),
            size_text(row.kernel),
            stride_text(row.stride),
            padding_text(row.padding),
            str(row.groups or ""),
            row.activation or "",
            size_text(row.output),
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.macs:,}" if row.macs else "",
        )
    return table


def rows_to_show(summary: "Summary") -> "list[Row]":
    """Return all rows but those of activations, which are a column."""
    from alexnet.analysis.summary import ACTIVATIONS

    return [row for row in summary.layers if row.type not in ACTIVATIONS]


def size_text(size: tuple[int, ...] | None) -> str:
    """Write a size: "11x11", nothing for None."""
    return "x".join(map(str, size)) if size else ""


def stride_text(stride: tuple[int, int] | None) -> str:
    """Write a stride: "4", or "4x2" where it differs."""
    return str(stride[0]) if stride and stride[0] == stride[1] else size_text(stride)


def padding_text(padding: tuple[int, int, int, int] | None) -> str:
    """Write a padding: "2" on all sides, "0+3" for none before and three after, on both axes."""
    if padding is None:
        return ""
    top, bottom, left, right = padding
    if top == bottom == left == right:
        return str(top)
    return f"{top}+{bottom}" if (top, bottom) == (left, right) else ",".join(map(str, padding))
