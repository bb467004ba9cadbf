"""The derivative of a whole sequence of tanh, GRU or LSTM steps, written out.

Differentiating the scan accumulates each weight's gradient inside the loop and recomputes or stores every
intermediate value. Here the backward loop carries what is truly sequential and nothing else. The deltas of
the gates are linear in the gradients that come back through time,

    delta_t = P_t * (dh_t or dc_t),    dh_{t-1} = delta_t U^T + ...

with factors P_t of the forward pass alone, so all factors are computed at once before the loop, and the
weights' gradient, sum_t h_{t-1}^T delta_t, is one product after it. Arrays inside are time-major (T, B, ...),
as a scan wants them.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.layers import Precision, matmul_along, rounded
from lmseq.recurrence import cells, native
from lmseq.recurrence.cells import CellKind, GruGates, LayerState, LstmState, Recurrent

Steps = Float[Array, "time batch hidden"]
Loop = Literal["scan", "native"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def unroll(
    kind: CellKind,
    precision: Precision,
    loop: Loop,
    weights: Recurrent,
    state: LayerState,
    xs: Float[Array, "time batch gates"],
) -> tuple[LayerState, Steps]:
    """The scan of `cells.cell_step` over projected inputs (T, B, G * H): last state, outputs (T, B, H).

    The loops, forward and backward, are XLA's (`scan`) or compiled beforehand (`native`).
    """
    if loop == "native":
        return native.forward(kind, precision, weights, state, xs, keep=False)[:2]
    kernel = rounded(weights.kernel, precision)

    def step(state: LayerState, x: cells.Gates) -> tuple[LayerState, cells.State]:
        state = cells.cell_step(kind, weights._replace(kernel=kernel), state, x, precision)
        return state, cells.output(state)

    return lax.scan(step, state, xs)


class Residuals(NamedTuple):
    """What the backward pass needs: initial state, all states, and the gates that led to them."""

    weights: Recurrent
    initial: LayerState
    states: LayerState
    gates: Any


def _forward(kind, precision, loop, weights, state, xs):
    if loop == "native":
        last, outputs, kept = native.forward(kind, precision, weights, state, xs, keep=True)
        return (last, outputs), Residuals(weights, state, *kept)
    kernel = rounded(weights.kernel, precision)
    inner = weights._replace(kernel=kernel)

    def step(state, x):
        match kind:
            case "rnn":
                state, gates = cells.rnn_step(inner, state, x, precision), ()
            case "gru":
                gates = cells.gru_gates(inner, state, x, precision)
                state = cells.gru_output(gates, state)
            case _:
                gates = cells.lstm_gates(inner, state, x, precision)
                state = cells.lstm_output(gates, state)
        return state, (state, gates)

    last, (states, gates) = lax.scan(step, state, xs)
    return (last, cells.output(states)), Residuals(weights, state, states, gates)


def _backward(kind, precision, loop, residuals, cotangents):
    weights, initial, states, gates = residuals
    d_last, d_outputs = cotangents
    hidden, first = cells.output(states), cells.output(initial)
    if loop == "native":
        kept = states, gates
        deltas, d_xs, d_state = native.deltas(kind, precision, weights, initial, kept, d_last, d_outputs)
    else:
        deltas, d_xs, d_state = _deltas(kind, precision, residuals, d_last, d_outputs)
    d_bias = None
    if weights.bias is not None:
        d_bias = jnp.sum(deltas[:, :, -weights.bias.size :], axis=(0, 1))
    # The first step apart: putting the initial state before the others would copy all of them.
    d_kernel = matmul_along(first, deltas[0], 0, 0, precision) + matmul_along(
        _matrix(hidden[:-1]), _matrix(deltas[1:]), 0, 0, precision
    )
    return Recurrent(d_kernel, d_bias), d_state, d_xs


def _deltas(kind, precision, residuals, d_last, d_outputs):
    """Of the gates' sums, of the inputs, and of the initial state."""
    weights, initial, states, gates = residuals
    transposed = rounded(weights.kernel.T, precision)

    def back(delta):
        return matmul_along(delta, transposed, 1, 0, precision)

    match kind:
        case "rnn":
            deltas, d_state = _rnn_deltas(back, states, d_last, d_outputs)
            return deltas, deltas, d_state
        case "gru":
            return _gru_deltas(back, gates, _shifted(initial, states), d_last, d_outputs)
        case _:
            memory = _shifted(initial.cell, states.cell)
            deltas, d_state = _lstm_deltas(back, gates, states.cell, memory, d_last, d_outputs)
            return deltas, deltas, d_state


unroll.defvjp(_forward, _backward)


def _matrix(steps: Steps) -> Float[Array, "rows hidden"]:
    return steps.reshape(-1, steps.shape[-1])


def _shifted(first: cells.State, steps: Steps) -> Steps:
    """What was there before each step, (T, B, H)."""
    return jnp.concatenate([first[None], steps[:-1]], axis=0)


def _rnn_deltas(back, hidden, d_last, d_outputs):
    """delta = dh (1 - h^2), dh_{t-1} = delta U^T."""

    def step(d_hidden, factors):
        slope, d_output = factors
        delta = (d_hidden + d_output) * slope
        return back(delta), delta

    d_state, deltas = lax.scan(step, d_last, (1.0 - hidden * hidden, d_outputs), reverse=True)
    return deltas, d_state


def _gru_deltas(back, gates: GruGates, before, d_last, d_outputs):
    """delta = dh P for r, z and h U_n + b, packed; dh_{t-1} = dh z + delta U^T."""
    reset, keep = jnp.split(gates.gates, 2, axis=-1)
    new = (1.0 - keep) * (1.0 - gates.candidate * gates.candidate)  # d h' / d (x_n + r (h U_n + b))
    factors = jnp.concatenate(
        [
            new * gates.recurrent * reset * (1.0 - reset),
            (before - gates.candidate) * keep * (1.0 - keep),
            new * reset,
        ],
        axis=-1,
    )

    def step(d_hidden, inputs):
        factor, keep, d_output = inputs
        d_hidden = d_hidden + d_output
        delta = jnp.concatenate([d_hidden] * 3, axis=-1) * factor
        return d_hidden * keep + back(delta), (delta, d_hidden)

    d_state, (deltas, d_hidden) = lax.scan(step, d_last, (factors, keep, d_outputs), reverse=True)
    hidden_size = before.shape[-1]
    d_xs = jnp.concatenate([deltas[:, :, : 2 * hidden_size], d_hidden * new], axis=-1)
    return deltas, d_xs, d_state


def _lstm_deltas(back, gates, cell, memory, d_last, d_outputs):
    """dc += dh o (1 - tanh(c)^2); delta = (dc, dc, dc, dh) P; dh_{t-1} = delta U^T, dc_{t-1} = dc f."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    squashed = cells.tanh(cell)
    factors = jnp.concatenate(
        [g * i * (1.0 - i), memory * f * (1.0 - f), i * (1.0 - g * g), squashed * o * (1.0 - o)], axis=-1
    )

    # A delta is written one step late, out of the carry: written while it is computed, it would keep XLA's
    # CPU code for the gates from vector instructions.
    def step(carry, inputs):
        delta, d_cell = carry
        factor, inward, forget, d_output = inputs
        d_hidden = back(delta) + d_output
        d_cell = d_cell + d_hidden * inward
        new = jnp.concatenate([d_cell, d_cell, d_cell, d_hidden], axis=-1) * factor
        return (new, d_cell * forget), delta

    inward = o * (1.0 - squashed * squashed)
    inputs = factors, inward, f, d_outputs.at[-1].add(d_last.hidden)
    nothing = jnp.zeros_like(factors[0])
    (first, d_cell), deltas = lax.scan(step, (nothing, d_last.cell), inputs, reverse=True)
    return _shifted(first, deltas), LstmState(back(first), d_cell)
