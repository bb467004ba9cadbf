"""Recurrent cells as pure step functions, and their unrolling over time.

A cell sees its input already projected, x W + b, because the projections of all steps are one
product outside the loop; only the product with the state stays inside. Gates are packed along the
last axis. All arrays are batch-major; scans over time transpose inside one function.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

CellKind = Literal["rnn", "gru", "lstm", "mingru", "minlstm"]
NUM_GATES: dict[CellKind, int] = {"rnn": 1, "gru": 3, "lstm": 4, "mingru": 2, "minlstm": 3}
State = Float[Array, "batch hidden"]
Gates = Float[Array, "batch gates"]


class LstmState(NamedTuple):
    """What an LSTM layer carries: its output h and its memory c, (B, H) each, or (B, T, H) of T steps."""

    hidden: Float[Array, "*dims hidden"]
    cell: Float[Array, "*dims hidden"]


class Recurrent(NamedTuple):
    """The part of a layer inside the loop: kernel (H, G * H); bias (H,), used by the GRU alone."""

    kernel: Float[Array, "hidden gates"]
    bias: Float[Array, "hidden"] | None = None


LayerState = State | LstmState
LayerStates = Float[Array, "batch time hidden"] | LstmState  # after each of T steps


def affine(
    x: Float[Array, "*dims feature"], kernel: Float[Array, "feature out"], bias: Float[Array, "out"]
) -> Float[Array, "*dims out"]:
    """x W + b over the last axis of x (..., D), the bias broadcast explicitly."""
    product = x @ kernel
    return product + jnp.broadcast_to(bias, product.shape)


def init_state(kind: CellKind, batch_size: int, hidden_size: int) -> LayerState:
    """The zero state of one layer, float32: (B, H), or two of them for an LSTM."""
    shape = (batch_size, hidden_size)
    # Two arrays, not one twice: a buffer can be donated once.
    return LstmState(jnp.zeros(shape), jnp.zeros(shape)) if kind == "lstm" else jnp.zeros(shape)


def output(state: LayerState | LayerStates) -> Float[Array, "*dims hidden"]:
    """What a layer shows of its state to the layer above, (..., H)."""
    return state.hidden if isinstance(state, LstmState) else state


def rnn_step(weights: Recurrent, state: State, x: Gates) -> State:
    """h' = tanh(x + h U) for a projected input x (B, H) (Elman 1990)."""
    return jnp.tanh(x + state @ weights.kernel)


def gru_step(weights: Recurrent, state: State, x: Gates) -> State:
    """h' = (1 - z) n + z h with r, z = sigmoid(x + h U), n = tanh(x_n + r (h U_n + b)).

    x is (B, 3H), packed r, z, n. The reset gate acts after the product, as in cuDNN, so that all
    three products with h are one (Cho et al. 2014; Chung et al. 2014).
    """
    hidden_size = state.shape[-1]
    recurrent = state @ weights.kernel
    gates = jax.nn.sigmoid(x[:, : 2 * hidden_size] + recurrent[:, : 2 * hidden_size])
    reset, keep = jnp.split(gates, 2, axis=-1)
    bias = 0.0 if weights.bias is None else weights.bias[None]
    new = jnp.tanh(x[:, 2 * hidden_size :] + reset * (recurrent[:, 2 * hidden_size :] + bias))
    return new + keep * (state - new)


def lstm_step(weights: Recurrent, state: LstmState, x: Gates) -> LstmState:
    """c' = f c + i g, h' = o tanh(c') with i, f, o = sigmoid and g = tanh of x + h U.

    x is (B, 4H), packed i, f, g, o (Hochreiter and Schmidhuber 1997; Gers et al. 2000). The forget
    gate's bias of 1 (Jozefowicz et al. 2015) is part of x: initialisation, not computation.
    """
    i, f, g, o = jnp.split(x + state.hidden @ weights.kernel, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return LstmState(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)


def linear_coefficients(
    kind: CellKind, x: Float[Array, "*dims gates"]
) -> tuple[Float[Array, "*dims hidden"], Float[Array, "*dims hidden"]]:
    """a and b of h_t = a_t h_{t-1} + b_t, both (..., H), for projected inputs (..., G * H).

    minGRU: a = 1 - z, b = z c with z = sigmoid(x_z) and candidate c = x_c.
    minLSTM: a = f / (f + i), b = i c / (f + i) with sigmoid gates f, i (Feng et al. 2024, "Were RNNs
    all we needed?", the forms whose output does not depend on time's scale).
    """
    match kind:
        case "mingru":
            gate, candidate = jnp.split(x, 2, axis=-1)
            return jax.nn.sigmoid(-gate), jax.nn.sigmoid(gate) * candidate
        case "minlstm":
            forget, take, candidate = jnp.split(x, 3, axis=-1)
            # f / (f + i) = sigmoid(log f - log i): no quotient, no 0 / 0 when both gates close.
            ratio = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(take)
            return jax.nn.sigmoid(ratio), jax.nn.sigmoid(-ratio) * candidate
        case _:
            raise ValueError(f"expected a linear recurrence (mingru, minlstm), got {kind!r}")


def cell_step(kind: CellKind, weights: Recurrent | None, state: LayerState, x: Gates) -> LayerState:
    """One step of the named cell from `state` and a projected input x (B, G * H)."""
    match kind:
        case "rnn":
            return rnn_step(weights, state, x)
        case "gru":
            return gru_step(weights, state, x)
        case "lstm":
            return lstm_step(weights, state, x)
        case _:
            decay, inflow = linear_coefficients(kind, x)
            return decay * state + inflow


def scan_layer(
    kind: CellKind, weights: Recurrent | None, state: LayerState, xs: Float[Array, "batch time gates"]
) -> tuple[LayerState, Float[Array, "batch time hidden"]]:
    """The scan of `cell_step` over projected inputs (B, T, G * H): last state, outputs (B, T, H)."""

    def step(state: LayerState, x: Gates) -> tuple[LayerState, State]:
        state = cell_step(kind, weights, state, x)
        return state, output(state)

    state, outputs = lax.scan(step, state, jnp.swapaxes(xs, 0, 1))
    return state, jnp.swapaxes(outputs, 0, 1)


def layer_states(
    kind: CellKind, weights: Recurrent | None, state: LayerState, xs: Float[Array, "batch time gates"]
) -> LayerStates:
    """The state after each projected input of (B, T, G * H): every leaf (B, T, H)."""
    if kind != "lstm":  # whose output is not the whole state
        return unroll_layer(kind, weights, state, xs)[1]

    def step(state: LstmState, x: Gates) -> tuple[LstmState, LstmState]:
        state = lstm_step(weights, state, x)
        return state, state

    states = lax.scan(step, state, jnp.swapaxes(xs, 0, 1))[1]
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), states)


def associative_layer(
    kind: CellKind, state: State, xs: Float[Array, "batch time gates"]
) -> tuple[State, Float[Array, "batch time hidden"]]:
    """A linear recurrence over (B, T, G * H) by an associative scan, in O(log T) parallel steps.

    Composition of h -> a h + b is associative: (a_2, b_2) after (a_1, b_1) is (a_1 a_2, a_2 b_1 + b_2)
    (Blelloch 1990; Martin and Cundy 2018).
    """
    Affine = tuple[Float[Array, "..."], Float[Array, "..."]]

    def compose(first: Affine, second: Affine) -> Affine:
        return first[0] * second[0], second[0] * first[1] + second[1]

    decay, inflow = linear_coefficients(kind, xs)
    total_decay, total_inflow = lax.associative_scan(compose, (decay, inflow), axis=1)
    outputs = total_decay * state[:, None] + total_inflow
    return outputs[:, -1], outputs


def unroll_layer(
    kind: CellKind, weights: Recurrent | None, state: LayerState, xs: Float[Array, "batch time gates"]
) -> tuple[LayerState, Float[Array, "batch time hidden"]]:
    """One layer over time, by the fastest form that equals `scan_layer`."""
    if kind in ("mingru", "minlstm"):
        return associative_layer(kind, state, xs)
    return scan_layer(kind, weights, state, xs)


@jax.custom_vjp
def lookup(table: Float[Array, "vocab feature"], ids: Int[Array, "*dims"]) -> Float[Array, "*dims feature"]:
    """Rows of a small table (V, D) by ids (...): (..., D).

    The gradient is a product with the one-hot ids instead of a scatter, which on a CPU is several
    times faster for vocabularies of a few hundred symbols, and deterministic everywhere.
    """
    return table[ids]


def _lookup_forward(table, ids):
    return table[ids], (ids, table.shape[0])


def _lookup_backward(residuals, cotangent):
    ids, vocab_size = residuals
    one_hot = jax.nn.one_hot(ids.reshape(-1), vocab_size, dtype=cotangent.dtype)
    return one_hot.T @ cotangent.reshape(-1, cotangent.shape[-1]), None


lookup.defvjp(_lookup_forward, _lookup_backward)
