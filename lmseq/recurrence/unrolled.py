"""A layer over time: the reference scan, and the fastest form that equals it.

Arrays are time-major here, (T, B, ...): a scan takes the first axis, and a stack of layers transposes once
below the first and once above the last.
"""

from jax import lax
from jaxtyping import Array, Float

from lmseq.dense import Precision
from lmseq.recurrence import derivative
from lmseq.recurrence.cells import (
    CellKind,
    Gates,
    LayerState,
    LstmState,
    Recurrent,
    cell_step,
    linear_coefficients,
)
from lmseq.recurrence.linear import linear_states

LayerStates = Float[Array, "time batch hidden"] | LstmState  # after each of T steps


def scan_states(
    kind: CellKind,
    weights: Recurrent | None,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
) -> LayerStates:
    """The definition: the state after each projected input of (T, B, G * H), every leaf (T, B, H)."""

    def step(state: LayerState, x: Gates) -> tuple[LayerState, LayerState]:
        state = cell_step(kind, weights, state, x)
        return state, state

    return lax.scan(step, state, xs)[1]


def unroll_layer(
    kind: CellKind,
    weights: Recurrent | None,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
    precision: Precision = "float32",
) -> tuple[LayerState, Float[Array, "time batch hidden"]]:
    """Last state and outputs (T, B, H) of one layer, by the fastest form that equals `scan_states`."""
    if kind in ("mingru", "minlstm"):
        outputs = linear_states(*linear_coefficients(kind, xs), state)
        return outputs[-1], outputs
    return derivative.unroll(kind, precision, weights, state, xs)
