"""Compile the kernels for an H100 or H200, without one, and print the properties as JSON.

`test_kernels_cuda.py` runs this in a process of its own, in which Triton does not interpret.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from alexnet.kernels.cuda import (
    batch,
    bias_relu,
    block_backward,
    block_forward,
    dropout,
    loss,
    spatial_norm,
    update,
)

TARGET = GPUTarget("cuda", 90, 32)
INTEGERS = (
    *("count", "height", "width", "out_height", "out_width", "length", "size", "before"),
    *("strips", "rows"),
)
BLOCK: dict[str, Any] = {
    "channels": 96, "tower": 96, "pool": 3, "stride": 2, "relu": True, "norm": True,
    "alpha": 1e-4, "beta": 0.75, "k": 2.0, "positions": 32, "groups": 4, "group": 8,
    "wide": tl.float32,
}  # fmt: skip
FORWARD: dict[str, Any] = {"relu_after": False, "reaches_out": False, "columns": 2}
BACKWARD: dict[str, Any] = {"slope": 1.5e-4}
ALONE: dict[str, Any] = {"pool": 1, "stride": 1, "relu": False, "codes": None}
VALUES = dict.fromkeys(("x", "y", "bias", "gradient", "out"), "*bf16")
VALUES |= {"codes": "*u8", "sums": "*fp32"}
TILE: dict[str, Any] = {"channels": 256, "pixels": 32, "block": 32, "wide": tl.float32}
SPATIAL: dict[str, Any] = TILE | {"size": 5, "alpha": 4e-5, "beta": 0.75}

BATCH: dict[str, Any] = {
    "crop": 224,
    "stride": 4,
    "columns": 32,
    "values": 16,
    "halved": False,
    "scaled": False,
}
UPDATE: dict[str, Any] = {"gradient_type": tl.bfloat16, "columns": 6, "block": update.BLOCK}


def compile_kernel(kernel: Any, constants: dict[str, Any], types: dict[str, str]) -> Any:
    """Compile one kernel for the target."""
    names = kernel.arg_names
    types = dict.fromkeys(INTEGERS, "i32") | types
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(kernel, signature, values, aligned)
    return triton.compile(source, target=TARGET, options={"enable_fp_fusion": True})


def build(
    kernel: Any, constants: dict[str, Any], types: dict[str, str], allowed: int = 0
) -> dict[str, int]:
    """Compile one kernel; count layout conversions, and bytes of registers spilled to memory."""
    compiled = compile_kernel(kernel, constants, types)
    return {
        "layout_conversions": compiled.asm["ttgir"].count("ttg.convert_layout"),
        "allowed": allowed,
        "spilled": spilled(compiled.asm["ptx"]),
    }


def spilled(ptx: str) -> int:
    """Assemble PTX and return how many bytes of registers did not fit."""
    try:
        ptxas = get_ptxas(90).path
    except TypeError:  # older releases take no argument
        ptxas = get_ptxas().path
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [ptxas, "-v", "--gpu-name", "sm_90a", str(source), "-o", f"{folder}/kernel"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.findall(r"(\d+) bytes spill stores", done.stderr)[0])


def main() -> None:
    """Compile all, in the types of mixed precision."""
    forward, backward = block_forward.forward_kernel, block_backward.backward_kernel
    sums = dict.fromkeys(("direct", "terms"), "*fp32")
    images = {"rows": "*u8", "table": "*i32", "shift": "*fp32", "mean": "*fp32", "out": "*bf16"}
    images |= {f"step_{axis}": "i32" for axis in "nqij"} | {"divisor": "fp32"}
    images |= {"matrices": "*fp32"}
    tables = dict.fromkeys(("sums", "rates", "scale", "losses", "active", "results"), "*fp32")
    tables |= dict.fromkeys(("tensors", "gradients"), "*i64") | {"chunks": "*i32"}
    tables |= {"parts": "i32", "images": "i32", "clip_norm": "fp32"}
    rule = UPDATE | {"copy_type": tl.bfloat16, "factors": update.FACTORS}
    row = {"x": "*bf16", "seed": "*i64", "out": "*bf16", "layer": "i32", "p": "fp32"}
    row |= {"scale": "fp32", "logits": "*bf16", "labels": "*i64", "losses": "*fp32"}
    row |= {"gradient": "*bf16", "classes": "i32", "images": "i32", "smoothing": "fp32"}
    # The block kernels' conversions are in name only: no value changes its thread.
    built = {
        "forward": build(forward, BLOCK | FORWARD, VALUES, 9),
        "forward: norm alone": build(forward, BLOCK | FORWARD | ALONE, VALUES, 9),
        "backward": build(backward, BLOCK | BACKWARD, VALUES, 29),
        "backward: norm alone": build(backward, BLOCK | BACKWARD | ALONE, VALUES, 29),
        "bias and ReLU: forward": build(bias_relu.bias_relu_kernel, TILE, VALUES, 1),
        "bias and ReLU: backward": build(
            bias_relu.bias_relu_backward_kernel, TILE | {"tiles": 16}, VALUES, 1
        ),
        "spatial norm": build(spatial_norm._terms_kernel, SPATIAL, VALUES | sums, 2),
        "batch": build(batch._kernel, BATCH | {"matrices": None}, images, 6),
        "batch, colour halved": build(
            batch._kernel, BATCH | {"halved": True, "matrices": None}, images, 6
        ),
        "batch, scaled": build(batch._kernel, BATCH | {"scaled": True}, images, 6),
        "update: paper": build(update._update_kernel, rule | {"rule": "paper"}, tables, 4),
        "update: nesterov": build(update._update_kernel, rule | {"rule": "nesterov"}, tables, 4),
        "update: adamw": build(update._update_kernel, rule | {"rule": "adamw"}, tables, 6),
        "squares": build(update._squares_kernel, UPDATE, tables),
        "results": build(update._results_kernel, {"block": update.PARTS}, tables),
        "dropout": build(dropout._kernel, {"block": dropout.BLOCK}, row, 4),
        "loss": build(loss._kernel, {"block": 1024}, row),
    }
    json.dump(built, sys.stdout)


if __name__ == "__main__":
    main()
