"""The long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.layers import Precision
from lmseq.recurrence.activations import tanh
from lmseq.recurrence.cells.cell import Cell, Derivative, Gates, Native, Recurrent, project, zeros


class LstmState(NamedTuple):
    """What an LSTM layer carries: its output h and its memory c, (B, H) each, or more dimensions before H."""

    hidden: Float[Array, "*dims hidden"]
    cell: Float[Array, "*dims hidden"]


def init_state(batch_size: int, hidden_size: int) -> LstmState:
    """h and c of zeros, (B, H) each; two arrays, not one twice, as a buffer can be donated once."""
    return LstmState(zeros(batch_size, hidden_size), zeros(batch_size, hidden_size))


def output(state: LstmState) -> Float[Array, "*dims hidden"]:
    """h, (..., H)."""
    return state.hidden


def gates_of(weights: Recurrent, state: LstmState, x: Gates, precision: Precision = "float32") -> Gates:
    """i, f, o = sigmoid and g = tanh of x + h U, packed i, f, g, o: (B, 4H).

    One activation over all four, s tanh(s z) + o with s = o = 1/2 but for g, where s = 1 and o = 0: four
    separate ones keep XLA's CPU code from vector instructions.
    """
    scale, offset = _activation(state.hidden.shape[-1], x.dtype)
    return scale * tanh(scale * (x + project(state.hidden, weights.kernel, precision))) + offset


def _activation(hidden_size: int, dtype: jnp.dtype) -> tuple[Gates, Gates]:
    scale = jnp.repeat(jnp.asarray([0.5, 0.5, 1.0, 0.5], dtype), hidden_size)[None]
    return scale, jnp.repeat(jnp.asarray([0.5, 0.5, 0.0, 0.5], dtype), hidden_size)[None]


def _next(gates: Gates, state: LstmState) -> LstmState:
    """c' = f c + i g, h' = o tanh(c')."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = f * state.cell + i * g
    return LstmState(o * tanh(cell), cell)


def step(weights: Recurrent, state: LstmState, x: Gates, precision: Precision = "float32") -> LstmState:
    """c' = f c + i g, h' = o tanh(c') with the gates above; x is (B, 4H), packed i, f, g, o."""
    return _next(gates_of(weights, state, x, precision), state)


def _step_kept(weights, state, x, precision):
    gates = gates_of(weights, state, x, precision)
    return _next(gates, state), gates


def _deltas(back, initial: LstmState, states: LstmState, gates, d_last: LstmState, d_outputs):
    """dc += dh o (1 - tanh(c)^2); delta = (dc, dc, dc, dh) P; dh_{t-1} = delta U^T, dc_{t-1} = dc f."""
    memory = jnp.concatenate([initial.cell[None], states.cell[:-1]], axis=0)  # before each step
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    squashed = tanh(states.cell)
    factors = jnp.concatenate(
        [g * i * (1.0 - i), memory * f * (1.0 - f), i * (1.0 - g * g), squashed * o * (1.0 - o)], axis=-1
    )

    # A delta is written one step late, out of the carry: written while it is computed, it would keep XLA's
    # CPU code for the gates from vector instructions.
    def step_back(carry, inputs):
        delta, d_cell = carry
        factor, inward, forget, d_output = inputs
        d_hidden = back(delta) + d_output
        d_cell = d_cell + d_hidden * inward
        new = jnp.concatenate([d_cell, d_cell, d_cell, d_hidden], axis=-1) * factor
        return (new, d_cell * forget), delta

    inward = o * (1.0 - squashed * squashed)
    inputs = factors, inward, f, d_outputs.at[-1].add(d_last.hidden)
    nothing = jnp.zeros_like(factors[0])
    (first, d_cell), late = lax.scan(step_back, (nothing, d_last.cell), inputs, reverse=True)
    deltas = jnp.concatenate([first[None], late[:-1]], axis=0)
    return deltas, None, LstmState(back(first), d_cell)


def _forward(call, weights, state, inputs, keep):
    one = batch, hidden = state.hidden.shape
    steps = (inputs.time, *one)
    all_gates, all_cells = ((inputs.time, batch, 4 * hidden), steps) if keep else ((0, 0, 0), (1, *one))
    results = [call.gates(all_gates), all_cells, steps]
    gates, memory, outputs = call(results, *inputs.arrays(), weights.kernel, state.hidden, state.cell)
    last = LstmState(outputs[-1], memory[-1])
    return last, outputs, (LstmState(outputs, memory), gates) if keep else None


def _backward(call, transposed, initial, states, gates, d_last, d_outputs):
    packed = call.operands((*d_outputs.shape[:2], transposed.shape[0]))
    results = [packed, d_last.hidden.shape, d_last.cell.shape]
    before = transposed, gates, states.cell, initial.cell
    deltas, *d_state = call(results, *before, d_outputs, *d_last)
    return deltas, None, LstmState(*d_state)


LSTM = Cell(
    "lstm",
    4,
    step,
    init_state,
    output,
    input_bias=(0.0, 1.0, 0.0, 0.0),  # the forget gate starts open (Jozefowicz et al. 2015)
    derivative=Derivative(_step_kept, _deltas),
    native=Native(_forward, _backward),
    is_cudnn_lstm=True,
)
