"""What the tables of differences in docs/models.md say of a network, read off the live one."""

from alexnet.analysis.summary import Row, summarize

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")


def facts(name: str) -> dict[str, str]:
    """Return a network's cells, by the first cell of their line."""
    rows = {row.name: row for row in summarize(name).layers}
    padding = rows["pad1"].padding if "pad1" in rows else None
    norms = {row.name: row.options for row in rows.values() if row.name.startswith("norm")}
    return {
        "input": str(rows["input"].output[1]),
        "zeros right and below": str(padding[1]) if padding else "-",
        "padding of conv1": words(set(rows["conv1"].padding or ())),
        "layer 1": order(rows, "1"),
        "layer 2": order(rows, "2"),
        "layer 5": order(rows, "5"),
        "layers 6, 7": one({order(rows, "6"), order(rows, "7")}),
        "kernels of conv1 ... conv5": words(rows[conv].output[0] for conv in CONVOLUTIONS),
        "their groups": words(rows[conv].groups for conv in CONVOLUTIONS),
        "units of fc6, fc7": words(rows[layer].output[0] for layer in ("fc6", "fc7")),
        "groups of fc6, fc7": words(rows[layer].groups or 1 for layer in ("fc6", "fc7")),
        "norm: k": one({f"{norm['k']:g}" for norm in norms.values()}),
        "norm: alpha": one({f"{norm['alpha']:g}" for norm in norms.values()}),
        "norm: towers": one({str(norm["towers"]) for norm in norms.values()}),
        "snorm: alpha": f"{rows['snorm2'].options['alpha']:g}" if "snorm2" in rows else "-",
        "dropout scales in": one(
            {str(rows[row].options["scaled_in"]) for row in rows if "drop" in row}
        ),
        "start deviation of conv1, conv3, fc6, fc8": deviations(rows),
        "start bias of conv2, conv4, conv5, fc6, fc7": bias(rows),
    }


def order(rows: dict[str, Row], layer: str) -> str:
    """List the rows of a layer, without their number."""
    return " ".join(name[:-1] for name in rows if name.endswith(layer) and name != "pad1")


def words(values: object) -> str:
    """Write numbers as "1, 2"."""
    return ", ".join(map(str, values))  # type: ignore[call-overload]


def one(values: set[str]) -> str:
    """Return the only value there is, "-" for none."""
    assert len(values) <= 1, values
    return values.pop() if values else "-"


def deviations(rows: dict[str, Row]) -> str:
    """Write the standard deviations of the four kinds of layers, each standing for its like."""
    kinds = (("conv1", "conv2"), ("conv3", "conv4", "conv5"), ("fc6", "fc7"), ("fc8",))
    starts = [
        one({f"{(rows[name].start or {}).get('std', 0):g}" for name in kind}) for kind in kinds
    ]
    return "PyTorch's" if starts == ["0"] * 4 else ", ".join(starts)


def bias(rows: dict[str, Row]) -> str:
    """Write the start bias of the layers that have one; all others begin at 0."""
    starts = {row.name: row.start["bias"] for row in rows.values() if row.start}
    assert not any(value for name, value in starts.items() if name not in BIASED)
    return one({f"{starts[name]:g}" for name in BIASED if name in starts}).replace("-", "PyTorch's")
