"""Compile the implicit-GEMM kernels for an H100 or H200, without one, and print facts as JSON.

`test_implicit_gemm.py` runs this in a process of its own, in which Triton does not interpret.
"""

import json
import re
import sys
from typing import Any

import triton
from compile_kernels import TARGET, spilled
from triton.compiler import ASTSource

from alexnet.kernels.conv_forms import TILES, Tile
from alexnet.kernels.cuda import implicit_gemm

TENSORS = dict.fromkeys(("x", "weight", "y", "gradient"), "*bf16") | {"sums": "*fp32"}
MULTIPLES = {*TENSORS, "inputs", "outputs"}
"""Arguments that Triton sees to be multiples of 16: of bytes, or of channels."""


def build(kernel: Any, constants: dict[str, Any], tile: Tile) -> dict[str, Any]:
    """Compile one kernel for bfloat16 and channels that are multiples of 16."""
    names = kernel.arg_names
    constants |= dict(zip(names[-3:], tile[:3], strict=True))
    signature = {
        name: "constexpr" if name in constants else TENSORS.get(name, "i32") for name in names
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in names if n in MULTIPLES}
    compiled = triton.compile(
        ASTSource(kernel, signature, values, aligned),
        target=TARGET,
        options={
            "num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True
        },
    )  # fmt: skip
    ptx = compiled.asm["ptx"]
    sizes = re.findall(r"cp\.async\.c[ag]\.\S+[^,]*,[^,]*, 0x(\w+)", ptx)
    return {
        "spilled": spilled(ptx),
        "shared_memory": compiled.metadata.shared,
        "tensor_core_products": len(re.findall(r"wgmma\.mma_async", ptx)),
        "bytes_of_copies": sorted({int(size, 16) for size in sizes}),
        "layout_conversions": compiled.asm["ttgir"].count("ttg.convert_layout"),
    }


def main() -> None:
    """Compile every pass with every tile."""
    convolve, weights = implicit_gemm._convolve_kernel, implicit_gemm._weight_kernel
    built: dict[str, dict[str, Any]] = {}
    for tile in TILES:
        built[f"forward, {tile}"] = build(convolve, {"flipped": False}, tile)
        built[f"input gradient, {tile}"] = build(convolve, {"flipped": True}, tile)
        sides = {"out_height": 27, "out_width": 27}
        built[f"weight gradient, {tile}"] = build(weights, sides, tile)
    json.dump(built, sys.stdout)


if __name__ == "__main__":
    main()
