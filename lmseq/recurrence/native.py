"""The compiled loops of layers, called as the scans are that they equal.

`forward` and `deltas` equal the scans of `lmseq/recurrence/derivative.py`, whose formulas they follow, in
float32. In bfloat16 the deltas leave the backward loop in bfloat16, as the products that they go into would
round them, and gates are kept for it in float16, sigmoids as accurately near 1 as near 0. They are for cells
with a `native`. What calls those of attention stands in `lmseq/mixers/compiled_attention.py`, what makes all
of them known in `lmseq/recurrence/library.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmseq.layers import Precision
from lmseq.recurrence import library
from lmseq.recurrence.cells.cell import (
    Cell,
    Deltas,
    Inputs,
    LayerState,
    LayerStates,
    Recurrent,
    Steps,
)
from lmseq.recurrence.library import Result


class _Call(NamedTuple):
    """One of the loops, in one precision, as `cell.Call` says."""

    name: str
    is_half: bool

    def __call__(self, results: Sequence[Result], *arrays: Array) -> list[Array]:
        return library.call(self.name, results, *arrays, bfloat16=self.is_half)

    def gates(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float16 if self.is_half else jnp.float32)

    def operands(self, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16 if self.is_half else jnp.float32)


def _call(cell: Cell, way: str, precision: Precision) -> _Call:
    return _Call(f"{cell.name}_{way}", precision == "bfloat16")


def forward(
    cell: Cell, precision: Precision, weights: Recurrent, state: LayerState, inputs: Inputs, keep: bool
) -> tuple[LayerState, Steps, tuple[LayerStates, Any] | None]:
    """Last state, outputs (T, B, H), and, if they are to be kept, all states and gates for `deltas`."""
    return cell.native.forward(_call(cell, "forward", precision), weights, state, inputs, keep)


def deltas(
    cell: Cell,
    precision: Precision,
    weights: Recurrent,
    initial: LayerState,
    states: LayerStates,
    kept: Any,
    d_last: LayerState,
    d_outputs: Steps,
) -> Deltas:
    """The gradients with respect to h U (for the GRU, h U + b), to the inputs, and to the initial state."""
    call = _call(cell, "backward", precision)
    return cell.native.backward(call, weights.kernel.T, initial, states, kept, d_last, d_outputs)
