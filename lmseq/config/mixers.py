"""Stacks of mixers: which layers, in which blocks, of which sizes; for runs on texts and on series."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lmseq.config.kinds import CellKind
from lmseq.config.knobs import MOST_UNITS, Config, Idle, at_least, knob, pick

MixerKind = Literal[
    "attention",
    "matrix",
    "linear_attention",
    "retnet",
    "mamba2",
    "gla",
    "deltanet",
    "gated_deltanet",
]
MIXERS: tuple[str, ...] = get_args(MixerKind)
MATRIX: tuple[str, ...] = MIXERS[MIXERS.index("matrix") :]
CELL_NAMES: tuple[str, ...] = get_args(CellKind)
STACK = "stack"  # the model that --layers describes


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """The layers of a stack; a recurrent cell in plain blocks needs none of these."""

    layers: str = knob(
        "", "mixers from the bottom up, such as gla*2,attention; empty: num_layers of the model that is named"
    )
    block: Literal["auto", "plain", "residual"] = knob(
        "auto",
        "plain: a mixer alone; residual: x + mixer(norm(x)), then x + perceptron(norm(x)); auto: plain for a "
        "recurrent cell that --model names, residual for all others and for --layers",
    )
    feed_forward: Literal["gelu", "gated"] = knob(
        "gelu", "perceptron of a residual block: 4 H units of GELU, or 8 H / 3 gated by SiLU"
    )
    num_heads: int = knob(4, "heads of attention and of matrix states")
    num_key_heads: int = knob(0, "heads of keys and values of attention; 0: num_heads")
    window: int = knob(64, "tokens that a layer of attention sees, the newest among them")
    key_size: int = knob(0, "rows d_k of a head's matrix state; 0: hidden_size / num_heads")
    value_size: int = knob(0, "columns d_v of a head's matrix state; 0: hidden_size / num_heads")
    decay: Literal["none", "fixed", "scalar", "vector"] = knob(
        "none", "of mixer matrix: none, fixed for each head, or of the input, one for a head or for each row"
    )
    delta_rule: bool = knob(False, "mixer matrix takes what a key holds already off its new value")
    max_strength: float = knob(
        1.0, "largest b of the delta rule: up to 1 it forgets what a key held, up to 2 it can turn the sign"
    )
    convolution: int = knob(
        -1,
        "steps of a short convolution before queries, keys and values of matrix states; 0: none; -1: as "
        "published, 4 of mamba2, deltanet and gated_deltanet",
    )
    chunk: int = knob(
        64, "steps of a matrix state taken at once, a power of two; changes speed and memory only"
    )


def parse_layers(text: str) -> tuple[str, ...]:
    """The names of the layers from the bottom up: "gla*2,attention" is gla, gla, attention.

    Raises ValueError for an empty pattern, a name that is not known and a count that is not one.
    """
    names: list[str] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)\s*(?:\*\s*(\d{1,4}))?\s*", part)
        if found is None or int(found[2] or 1) < 1:
            raise ValueError(
                f"expected layers such as gla*2,attention, got {text!r}: names with commas between, and *N "
                "behind one that stands N times"
            )
        if found[1] not in (*CELL_NAMES, *MIXERS):
            raise ValueError(f"expected layers of {', '.join((*CELL_NAMES, *MIXERS))}, got {found[1]!r}")
        names += [found[1]] * int(found[2] or 1)
        if len(names) > 1000:
            raise ValueError(f"expected at most 1000 layers, got {len(names)}")
    return tuple(names)


def layer_names(config: MixerConfig, model: str, num_layers: int) -> tuple[str, ...]:
    """The layers of a model: those of `layers`, or so many of the one that is named."""
    return parse_layers(config.layers) if config.layers else (model,) * num_layers


def is_stack(config: MixerConfig, model: str) -> bool:
    """Whether the model is a stack of mixers: by its layers, its kind, or a residual block."""
    return bool(config.layers) or model in (*MIXERS, STACK) or config.block == "residual"


def block_of(config: MixerConfig, model: str) -> Literal["plain", "residual"]:
    """The block that is meant by auto."""
    if config.block != "auto":
        return config.block
    return "plain" if model in CELL_NAMES and not config.layers else "residual"


def settled_stack(config: Config) -> Config:
    """A config whose `model` is the stack that its layers describe, where they are given.

    Its default model is no contradiction to layers.
    """
    if config.layers and config.model == type(config)().model:
        return replace(config, model=STACK)
    return config


def check_key_heads(num_heads: int, num_key_heads: int) -> None:
    """Raise ValueError unless heads of keys and values, 0 for as many as queries, divide those of queries."""
    if num_key_heads and num_heads % num_key_heads:
        raise ValueError(
            f"expected num_key_heads to divide num_heads, got {num_key_heads} and {num_heads}: choose another"
        )


def check_mixers(config: MixerConfig, model: str) -> None:
    """Raise ValueError for a setting out of range, and for layers that another model than a stack has."""
    at_least(1, MOST_UNITS, **pick(config, "num_heads", "window"))
    at_least(0, MOST_UNITS, **pick(config, "num_key_heads", "key_size", "value_size"))
    at_least(-1, 1000, **pick(config, "convolution"))
    check_key_heads(config.num_heads, config.num_key_heads)
    if config.chunk < 1 or config.chunk & (config.chunk - 1):
        raise ValueError(f"expected chunk to be a power of two, got {config.chunk}")
    at_least(1, 1024, **pick(config, "chunk"))
    if not 0.0 < config.max_strength <= 2.0:
        raise ValueError(f"expected max_strength above 0 and at most 2, got {config.max_strength}")
    if model == STACK and not config.layers:
        raise ValueError("model stack needs layers: give --layers, such as --layers=gla*2,attention")
    if config.layers and model != STACK:
        raise ValueError(f"layers describe a whole stack, got model {model} too: leave one of them out")
    if config.block == "residual" and model not in (*CELL_NAMES, *MIXERS, STACK):
        raise ValueError(f"block residual is for cells and other mixers, got model {model}: leave it out")


def idle_mixers(config: MixerConfig, model: str, names: Collection[str]) -> list[Idle]:
    """Which settings nothing reads, as `check_idle` takes them; `names` are those of the layers."""
    stack = is_stack(config, model)
    residual = stack and block_of(config, model) == "residual"
    attends, holds = stack and "attention" in names, stack and any(name in MATRIX for name in names)
    free = stack and "matrix" in names
    delta = holds and ({"deltanet", "gated_deltanet"} & set(names) or (free and config.delta_rule))
    return [
        (config, "block", stack or model in CELL_NAMES, "cells and other mixers"),
        (config, "feed_forward", residual, "residual blocks"),
        (config, "num_heads", attends or holds, "attention and matrix states"),
        (config, "num_key_heads", attends, "attention"),
        (config, "window", attends, "attention"),
        *((config, name, holds, "matrix states") for name in ("key_size", "value_size")),
        *((config, name, holds, "matrix states") for name in ("convolution", "chunk")),
        *((config, name, free, "mixer matrix") for name in ("decay", "delta_rule")),
        (config, "max_strength", bool(delta), "the delta rule"),
    ]
