"""The compiled loops of layers, called as the scans are that they equal.

`forward` and `deltas` equal the scans of `lmseq/recurrence/derivative.py`, whose formulas they follow, in
float32. They are for cells with a `native`. What calls those of attention stands in
`lmseq/mixers/compiled_attention.py`, what makes all of them known in `lmseq/recurrence/library.py`.
"""

from functools import partial
from typing import Any

from jaxtyping import Array

from lmseq.layers import Precision
from lmseq.recurrence import library
from lmseq.recurrence.cells.cell import Cell, Deltas, GateSteps, LayerState, LayerStates, Recurrent, Steps


def _call(name: str, precision: Precision, shapes: list[tuple[int, ...]], *arrays: Array) -> list[Array]:
    return library.call(name, shapes, *arrays, bfloat16=precision == "bfloat16")


def forward(
    cell: Cell, precision: Precision, weights: Recurrent, state: LayerState, xs: GateSteps, keep: bool
) -> tuple[LayerState, Steps, tuple[LayerStates, Any] | None]:
    """Last state, outputs (T, B, H), and, if they are to be kept, all states and gates for `deltas`."""
    return cell.native.forward(partial(_call, f"{cell.name}_forward", precision), weights, state, xs, keep)


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
    call = partial(_call, f"{cell.name}_backward", precision)
    return cell.native.backward(call, weights.kernel.T, initial, states, kept, d_last, d_outputs)
