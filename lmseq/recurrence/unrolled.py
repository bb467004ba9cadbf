"""A layer over time: the reference scan, the linear recurrences' parallel forms, and the choice.

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
    State,
    cell_step,
    linear_coefficients,
)

LayerStates = Float[Array, "time batch hidden"] | LstmState  # after each of T steps


def scan_states(
    kind: CellKind,
    weights: Recurrent | None,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
    precision: Precision = "float32",
) -> LayerStates:
    """The definition: the state after each projected input of (T, B, G * H), every leaf (T, B, H)."""

    def step(state: LayerState, x: Gates) -> tuple[LayerState, LayerState]:
        state = cell_step(kind, weights, state, x, precision)
        return state, state

    return lax.scan(step, state, xs)[1]


def associative_layer(
    kind: CellKind, state: State, xs: Float[Array, "time batch gates"]
) -> tuple[State, Float[Array, "time batch hidden"]]:
    """A linear recurrence over (T, B, G * H) by an associative scan, in O(log T) parallel steps.

    Composition of h -> a h + b is associative: (a_2, b_2) after (a_1, b_1) is (a_1 a_2, a_2 b_1 + b_2)
    (Blelloch 1990; Martin and Cundy 2018).
    """
    Affine = tuple[Float[Array, "..."], Float[Array, "..."]]

    def compose(first: Affine, second: Affine) -> Affine:
        return first[0] * second[0], second[0] * first[1] + second[1]

    decay, inflow = linear_coefficients(kind, xs)
    total_decay, total_inflow = lax.associative_scan(compose, (decay, inflow), axis=0)
    outputs = total_decay * state[None] + total_inflow
    return outputs[-1], outputs


def unroll_layer(
    kind: CellKind,
    weights: Recurrent | None,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
    precision: Precision = "float32",
) -> tuple[LayerState, Float[Array, "time batch hidden"]]:
    """Last state and outputs (T, B, H) of one layer, by the fastest form that equals `scan_states`."""
    if kind in ("mingru", "minlstm"):
        return associative_layer(kind, state, xs)
    return derivative.unroll(kind, precision, weights, state, xs)
