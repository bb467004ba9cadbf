"""What a compiled program says of itself: flops, bytes, and what the devices send each other."""

import math
import re
from collections import defaultdict
from typing import Any

COLLECTIVES = (
    "all-gather all-reduce all-to-all collective-broadcast collective-permute reduce-scatter".split()
)
# The result of an instruction, its name, and its operands: `%x = f32[2,3]{1,0} dot(%y, %z), lhs_...`.
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?(%[\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
SHAPE = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
HOST = re.compile(r'custom_call_target="[^"]*(?:callback|host)[^"]*"|\b(?:infeed|outfeed|send|recv)\(')
# Of data: the counters of random numbers are u64, in passing.
WIDE = re.compile(r"\b(?:f64|s64|c128)\[")


def _size(dimensions: str) -> int:
    return math.prod(int(each) for each in dimensions.split(",") if each)


def _bytes(kind: str, dimensions: str) -> int:
    """Bytes of an array of a type such as f32, pred, bf16, f8e4m3fn or s4."""
    bits = 8 if kind == "pred" else 0 if kind == "token" else int(re.search(r"\d+", kind)[0])
    return -(-_size(dimensions) * bits // 8)


def collectives_of(text: str) -> dict[str, dict[str, int]]:
    """How often a compiled program has each collective, and bytes of their results on a device.

    A collective in a loop counts once.
    """
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"count": 0, "bytes": 0})
    for line in text.splitlines():
        instruction = INSTRUCTION.match(line)
        if instruction is None:
            continue
        name = instruction[3].removesuffix("-start")
        if name not in COLLECTIVES:
            continue
        shapes = SHAPE.findall(instruction[2])
        if instruction[3].endswith("-start") and name in ("all-gather", "collective-permute"):
            shapes = shapes[len(shapes) // 2 :]  # the operands stand before the results
        found[name]["count"] += 1
        found[name]["bytes"] += sum(_bytes(*shape) for shape in shapes)
    return dict(found)


def product_flops(text: str) -> int:
    """Flops of the matrix products of a program of a GPU, as XLA counts: the body of a loop once."""
    shapes, total = {}, 0
    instructions = [found for found in map(INSTRUCTION.match, text.splitlines()) if found]
    for name, result, _, _ in (found.groups() for found in instructions):
        shapes[name] = [_size(dimensions) for _, dimensions in SHAPE.findall(result)][:1], result
    for _, result, operation, rest in (found.groups() for found in instructions):
        if operation != "dot" and "cublas" not in rest:
            continue
        contracted = re.search(r'lhs_contracting_dim(?:ension)?s"?[=:]\W*([\d,"]+)', rest)
        operand = re.match(r"(?:\S+\[\S* )?(%[\w.-]+)", rest)
        if contracted is None or operand is None:
            continue
        lhs = SHAPE.search(shapes[operand[1]][1])[2].split(",")
        axes = [int(each) for each in re.findall(r"\d+", contracted[1])]
        total += 2 * _size(SHAPE.search(result)[2]) * math.prod(int(lhs[axis]) for axis in axes)
    return total


def analyse(compiled: Any, memory: int) -> dict[str, Any]:
    """Figures of a compiled program on a device of so many bytes of memory."""
    text, sizes = compiled.as_text(), compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    bytes_of = {
        "arguments": sizes.argument_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "results": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "code": sizes.generated_code_size_in_bytes,
    }
    peak = sum(bytes_of.values())
    return {
        "flops_per_device": round(costs["flops"]) if "flops" in costs else product_flops(text),
        "bytes": {**bytes_of, "peak": peak, "memory": memory},
        "collectives": collectives_of(text),
        "on_the_host": len(HOST.findall(text)),
        "wide_types": len(WIDE.findall(text)),
        "fits": peak <= memory,
    }


def out_of_memory(message: str, memory: int) -> dict[str, Any]:
    """The same of a program that the compiler refuses, as it does not fit."""
    asked = re.search(r"(?:Used |\()([\d.]+)([KMGT])\)? (?:of|exceeds)", message)
    peak = float(asked[1]) * 1024 ** ("KMGT".index(asked[2]) + 1) if asked else None
    return {
        "flops_per_device": None,
        "bytes": {"peak": None if peak is None else round(peak), "memory": memory},
        "collectives": {},
        "fits": False,
    }


def table(programs: dict[str, dict[str, Any]]) -> str:
    """The figures for reading."""

    def mebibytes(figures: dict[str, Any], name: str) -> str:
        value = figures["bytes"].get(name)
        return "-" if value is None else f"{value / 2**20:,.1f}"

    lines = [
        f"{'MiB a device':<12}{'arguments':>11}{'temporaries':>13}{'peak':>10}{'of':>10}"
        f"{'Mflops':>12}{'compiled in':>13}  fits  collectives"
    ]
    for name, figures in programs.items():
        flops = figures["flops_per_device"]
        sent = ", ".join(
            f"{each['count']} {kind} ({each['bytes'] / 2**20:,.2f} MiB)"
            for kind, each in figures["collectives"].items()
        )
        lines.append(
            f"{name:<12}{mebibytes(figures, 'arguments'):>11}{mebibytes(figures, 'temporaries'):>13}"
            f"{mebibytes(figures, 'peak'):>10}{mebibytes(figures, 'memory'):>10}"
            f"{'-' if flops is None else f'{flops / 1e6:,.1f}':>12}{figures['compile_seconds']:>11.1f} s"
            f"  {'yes' if figures['fits'] else 'NO':<4}  {sent or 'none'}"
        )
    return "\n".join(lines)
