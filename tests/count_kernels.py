"""Count the instructions of the block kernels for an H100 or H200, and print a table.

    TRITON_INTERPRET=0 python tests/count_kernels.py

No GPU is needed: Triton compiles, and its disassembler shows what the device would run. For each
block of the paper's network at batch 1024 the table gives registers, instructions per element of
the convolution's result, and three lower bounds of the time on an H200: by instructions, by the
unit for square roots, by bytes. The bounds are no measurements.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import triton
from compile_kernels import BACKWARD, BLOCK, FORWARD, TILE, VALUES, compile_kernel

from alexnet.kernels.cuda import bias_relu, block_backward, block_forward

BATCH = 1024
THREADS_PER_SECOND = 132 * 4 * 32 * 1.755e9
"""Instructions of one thread that an H200 issues: processors, schedulers, threads, clock."""
SLOW_PER_SECOND = THREADS_PER_SECOND / 8
BYTES_PER_SECOND = 4.278e12
"""Measured: a copy."""
SLOW = re.compile(r"\b(MUFU|F2F|I2F|F2I)\b")


class Program(NamedTuple):
    """The instructions of a kernel."""

    registers: int
    outside: list[str]
    loop: list[str]
    """Those of the main loop; twice those of a loop in it, which has two rounds."""


class Layer(NamedTuple):
    """A block of the paper's network: its name, its input and its pooled result."""

    name: str
    channels: int
    side: int
    pooled: int
    norm: bool


BLOCKS = (
    Layer("block 1", 96, 55, 27, norm=True),
    Layer("block 2", 256, 27, 13, norm=True),
    Layer("block 5", 256, 13, 6, norm=False),
)
RELU = Layer("ReLU 3 or 4", 384, 13, 13, norm=False)


class Count(NamedTuple):
    """Numbers for a thread and for an element of the convolution's result."""

    registers: int
    instructions: float
    slow: float
    bytes: float


def disassemble(compiled: Any) -> Program:
    """Return a compiled kernel's instructions, in its main loop and outside."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        code, usage = (
            subprocess.run(
                [tool, option, binary], capture_output=True, text=True, check=True
            ).stdout
            for option in ("-sass", "-res-usage")
        )
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*(\w{4,})\*/ +(.+?);", code)]
    lines = [(at, text) for at, text in lines if text != "NOP"]
    jumps = [
        (int(found[1], 16), at)
        for at, text in lines
        if (found := re.search(r"BRA.* 0x(\w+)", text))
    ]
    loops = [(start, end) for start, end in jumps if start < end]
    start, end = max(loops, key=lambda loop: loop[1] - loop[0], default=(0, -1))
    inner = [(a, b) for a, b in loops if start < a and b < end]
    return Program(
        int(re.findall(r"REG:(\d+)", usage)[0]),
        [text for at, text in lines if not start <= at <= end],
        [text for at, text in lines if start <= at <= end]
        + [text for at, text in lines if any(a <= at <= b for a, b in inner)],
    )


def count(program: Program, stores: int, rounds: float, elements: float, bytes_: float) -> Count:
    """Count what a thread does in `rounds` rounds of its loop, each with so many wide stores.

    `elements` are those of a thread. The compiler may have unrolled the loop: the stores in it tell
    how often.
    """
    unrolled = sum("STG" in text and "128" in text for text in program.loop) / stores
    weight = rounds / unrolled if unrolled else 0

    def each(kind: Callable[[str], object]) -> float:
        parts = (program.loop, program.outside)
        inside, outside = (sum(map(bool, map(kind, part))) for part in parts)
        return (inside * weight + outside) / elements

    return Count(program.registers, each(lambda _: True), each(SLOW.search), bytes_)


def forward(layer: Layer, *, training: bool) -> Count:
    """Count the forward kernel of a block."""
    values = BLOCK | FORWARD | {"channels": layer.channels, "tower": layer.channels}
    values |= {"norm": layer.norm} | ({} if training else {"codes": None})
    program = disassemble(compile_kernel(block_forward.forward_kernel, values, VALUES))
    columns = block_forward.COLUMNS
    rows = -(-layer.pooled // -(-layer.pooled // block_forward.ROWS))
    strips = -(-layer.pooled // columns) * -(-layer.pooled // rows)
    elements = 8 * layer.side**2 / strips
    pooled = layer.pooled**2 / layer.side**2
    return count(program, columns, rows + 1, elements, 2 + (3 if training else 2) * pooled)


def backward(layer: Layer) -> Count:
    """Count the backward kernel of a block."""
    values = BLOCK | BACKWARD | {"channels": layer.channels, "tower": layer.channels}
    program = disassemble(
        compile_kernel(block_backward.backward_kernel, values | {"norm": layer.norm}, VALUES)
    )
    cells = -(-layer.side // 2)
    rows = -(-cells // -(-cells // block_backward.ROWS))
    elements = 8 * layer.side**2 / (cells * -(-cells // rows))
    pooled = layer.pooled**2 / layer.side**2
    return count(program, 4, rows, elements, (4 if layer.norm else 2) + 3 * pooled)


def relu_forward(layer: Layer) -> Count:
    """Count the forward kernel of bias and ReLU."""
    values = TILE | {"channels": layer.channels}
    program = disassemble(compile_kernel(bias_relu.bias_relu_kernel, values, VALUES))
    return count(program, 1, 1, 8, 4)


def relu_backward(layer: Layer) -> Count:
    """Count the backward kernel of bias and ReLU."""
    values = TILE | {"channels": layer.channels, "tiles": bias_relu.TILES}
    program = disassemble(compile_kernel(bias_relu.bias_relu_backward_kernel, values, VALUES))
    return count(program, 1, bias_relu.TILES, 8 * bias_relu.TILES, 6)


def table(counts: dict[tuple[str, Layer], Count]) -> list[str]:
    """Return a Markdown table of the counts, and of the lower bounds of the time at `BATCH`."""
    lines = [
        "| kernel | registers | warps | instructions | slow | bytes | ms: these | slow | bytes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (name, layer), (registers, instructions, slow, bytes_) in counts.items():
        warps = 65536 // (-(-registers // 8) * 8 * 32) // 4 * 4
        elements = BATCH * layer.channels * layer.side**2 * 1e3
        times = (
            elements * instructions / THREADS_PER_SECOND,
            elements * slow / SLOW_PER_SECOND,
            elements * bytes_ / BYTES_PER_SECOND,
        )
        cells = " | ".join(f"{value:.3f}" for value in times)
        lines.append(
            f"| {layer.name}, {name} | {registers} | {min(warps, 64)} | {instructions:.1f} | "
            f"{slow:.1f} | {bytes_:.1f} | {cells} |"
        )
    return lines


def main() -> None:
    """Count and print all."""
    counts: dict[tuple[str, Layer], Count] = {}
    for layer in BLOCKS:
        counts["inference", layer] = forward(layer, training=False)
        counts["forward", layer] = forward(layer, training=True)
        counts["backward", layer] = backward(layer)
    counts["forward", RELU] = relu_forward(RELU)
    counts["backward", RELU] = relu_backward(RELU)
    sys.stdout.write("\n".join(table(counts)) + "\n")


if __name__ == "__main__":
    main()
