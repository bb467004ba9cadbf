"""The gated recurrent unit (Cho et al. 2014; Chung et al. 2014), in cuDNN's form.

The reset gate acts after the product with the state, so that all three products are one.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lmseq.layers import Precision
from lmseq.recurrence.activations import sigmoid, tanh
from lmseq.recurrence.cells.cell import Cell, Derivative, Gates, Native, Recurrent, State, Steps, project


class GruGates(NamedTuple):
    """r and z packed (..., 2H), the candidate n and h U_n + b, (..., H) each."""

    gates: Float[Array, "*dims gates"]
    candidate: Float[Array, "*dims hidden"]
    recurrent: Float[Array, "*dims hidden"]


def gates_of(weights: Recurrent, state: State, x: Gates, precision: Precision = "float32") -> GruGates:
    """r, z = sigmoid(x + h U), n = tanh(x_n + r (h U_n + b)); x is (B, 3H), packed r, z, n."""
    hidden_size = state.shape[-1]
    split = 2 * hidden_size
    recurrent = project(state, weights.kernel, precision)
    gates = sigmoid(x[:, :split] + recurrent[:, :split])
    new = recurrent[:, split:]
    if weights.bias is not None:
        new = new + weights.bias[None]
    return GruGates(gates, tanh(x[:, split:] + gates[:, :hidden_size] * new), new)


def _next(gates: GruGates, state: State) -> State:
    """h' = n + z (h - n)."""
    keep = gates.gates[:, state.shape[-1] :]
    return gates.candidate + keep * (state - gates.candidate)


def step(weights: Recurrent, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = (1 - z) n + z h with the gates above."""
    return _next(gates_of(weights, state, x, precision), state)


def _step_kept(weights, state, x, precision):
    gates = gates_of(weights, state, x, precision)
    return _next(gates, state), gates


def _deltas(back, initial: State, states: Steps, gates: GruGates, d_last, d_outputs):
    """delta = dh P for r, z and h U_n + b, packed; dh_{t-1} = dh z + delta U^T."""
    before = jnp.concatenate([initial[None], states[:-1]], axis=0)
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

    def step_back(d_hidden, inputs):
        factor, keep, d_output = inputs
        d_hidden = d_hidden + d_output
        delta = jnp.concatenate([d_hidden] * 3, axis=-1) * factor
        return d_hidden * keep + back(delta), (delta, d_hidden)

    d_state, (deltas, d_hidden) = lax.scan(step_back, d_last, (factors, keep, d_outputs), reverse=True)
    hidden_size = before.shape[-1]
    d_xs = jnp.concatenate([deltas[:, :, : 2 * hidden_size], d_hidden * new], axis=-1)
    return deltas, d_xs, d_state


def _forward(call, weights, state, inputs, keep):
    batch, hidden = state.shape
    steps = (inputs.time, batch, hidden)
    some, one = ((inputs.time, batch, 2 * hidden), steps) if keep else ((0, 0, 0), (0, 0, 0))
    bias = jnp.zeros(hidden, state.dtype) if weights.bias is None else weights.bias
    results = [call.gates(some), call.gates(one), one, steps]
    *gates, outputs = call(results, *inputs.arrays(), weights.kernel, bias, state)
    return outputs[-1], outputs, (outputs, GruGates(*gates)) if keep else None


def _backward(call, transposed, initial, states, gates, d_last, d_outputs):
    packed = call.operands((*d_outputs.shape[:2], transposed.shape[0]))
    before = transposed, *gates, states, initial
    deltas, d_xs, d_state = call([packed, packed, d_last.shape], *before, d_outputs, d_last)
    return deltas, d_xs, d_state


GRU = Cell(
    "gru",
    3,
    step,
    has_bias=True,
    derivative=Derivative(_step_kept, _deltas),
    native=Native(_forward, _backward),
)
