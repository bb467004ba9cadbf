"""Recurrent cells as pure step functions.

A cell sees its input already projected, x W + b, because the projections of all steps are one
product outside the loop; only the product with the state stays inside. Gates are packed along the
last axis, and one activation serves all of them: a sigmoid is a tanh stretched and shifted.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.layers import Precision, matmul_along

CellKind = Literal["rnn", "gru", "lstm", "mingru", "minlstm"]
NUM_GATES: dict[CellKind, int] = {"rnn": 1, "gru": 3, "lstm": 4, "mingru": 2, "minlstm": 3}
State = Float[Array, "batch hidden"]
Gates = Float[Array, "batch gates"]


class LstmState(NamedTuple):
    """What an LSTM layer carries: its output h and its memory c, (B, H) each, or more dimensions before H."""

    hidden: Float[Array, "*dims hidden"]
    cell: Float[Array, "*dims hidden"]


class Recurrent(NamedTuple):
    """The part of a layer inside the loop: kernel (H, G * H); bias (H,), used by the GRU alone."""

    kernel: Float[Array, "hidden gates"]
    bias: Float[Array, "hidden"] | None = None


LayerState = State | LstmState
LayerStates = Float[Array, "time batch hidden"] | LstmState  # after each of T steps


def init_state(kind: CellKind, batch_size: int, hidden_size: int) -> LayerState:
    """The zero state of one layer, float32: (B, H), or two of them for an LSTM."""
    shape = (batch_size, hidden_size)
    # Two arrays, not one twice: a buffer can be donated once.
    return LstmState(jnp.zeros(shape), jnp.zeros(shape)) if kind == "lstm" else jnp.zeros(shape)


def output(state: Float[Array, "*dims hidden"] | LstmState) -> Float[Array, "*dims hidden"]:
    """What a layer shows of its state, or of many of them, to the layer above, (..., H)."""
    return state.hidden if isinstance(state, LstmState) else state


# tanh(x) = x p(x^2) / q(x^2) with p, q of degree 4, of least largest relative error on [0, BOUND], beyond
# which a float32 is 1: 6e-9 before rounding. Found by weighted least squares (Lawson 1961).
_BOUND = 7.90531
_NUMERATOR = (1.541764452e-08, 2.201656294e-05, 3.578609020e-03, 1.345030374e-01, 9.999999943e-01)
_DENOMINATOR = (8.594802631e-07, 3.423009564e-04, 2.619079919e-02, 4.678363171e-01, 1.0)


@jax.custom_jvp
def tanh(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """tanh(x); in float32 on a CPU a rational approximation, within 3.5e-7.

    XLA runs its own tanh on one thread of a CPU; products and sums it shares out. Other types and devices
    have theirs.
    """
    if x.dtype != jnp.float32:
        return jnp.tanh(x)
    return jax.lax.platform_dependent(x, cpu=_rational_tanh, default=jnp.tanh)


def _rational_tanh(x):
    x = jnp.clip(x, -_BOUND, _BOUND)
    square = x * x
    return (
        x
        * jnp.polyval(jnp.asarray(_NUMERATOR, x.dtype), square, unroll=5)
        / jnp.polyval(jnp.asarray(_DENOMINATOR, x.dtype), square, unroll=5)
    )


@tanh.defjvp
def _tanh_jvp(primals, tangents):
    y = tanh(*primals)
    return y, (1.0 - y * y) * tangents[0]


def sigmoid(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, exact to float32's last digit near 0 and 1 alike."""
    return 0.5 + 0.5 * tanh(0.5 * x)


def project(state: State, kernel: Float[Array, "hidden gates"], precision: Precision) -> Gates:
    """h U, (B, G * H)."""
    return matmul_along(state, kernel, 1, 0, precision)


def rnn_step(weights: Recurrent, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = tanh(x + h U) for a projected input x (B, H) (Elman 1990)."""
    return tanh(x + project(state, weights.kernel, precision))


class GruGates(NamedTuple):
    """r and z packed (..., 2H), the candidate n and h U_n + b, (..., H) each."""

    gates: Float[Array, "*dims gates"]
    candidate: Float[Array, "*dims hidden"]
    recurrent: Float[Array, "*dims hidden"]


def gru_gates(weights: Recurrent, state: State, x: Gates, precision: Precision = "float32") -> GruGates:
    """r, z = sigmoid(x + h U), n = tanh(x_n + r (h U_n + b)); x is (B, 3H), packed r, z, n."""
    hidden_size = state.shape[-1]
    split = 2 * hidden_size
    recurrent = project(state, weights.kernel, precision)
    gates = sigmoid(x[:, :split] + recurrent[:, :split])
    new = recurrent[:, split:]
    if weights.bias is not None:
        new = new + weights.bias[None]
    return GruGates(gates, tanh(x[:, split:] + gates[:, :hidden_size] * new), new)


def gru_step(weights: Recurrent, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = (1 - z) n + z h with the gates above.

    The reset gate acts after the product, as in cuDNN, so that all three products with h are one
    (Cho et al. 2014; Chung et al. 2014).
    """
    return gru_output(gru_gates(weights, state, x, precision), state)


def gru_output(gates: GruGates, state: State) -> State:
    """h' = n + z (h - n)."""
    keep = gates.gates[:, state.shape[-1] :]
    return gates.candidate + keep * (state - gates.candidate)


def lstm_gates(weights: Recurrent, state: LstmState, x: Gates, precision: Precision = "float32") -> Gates:
    """i, f, o = sigmoid and g = tanh of x + h U, packed i, f, g, o: (B, 4H).

    One activation over all four, s tanh(s z) + o with s = o = 1/2 but for g, where s = 1 and o = 0: four
    separate ones keep XLA's CPU code from vector instructions.
    """
    scale, offset = _lstm_activation(state.hidden.shape[-1], x.dtype)
    return scale * tanh(scale * (x + project(state.hidden, weights.kernel, precision))) + offset


def _lstm_activation(hidden_size: int, dtype: jnp.dtype) -> tuple[Gates, Gates]:
    scale = jnp.repeat(jnp.asarray([0.5, 0.5, 1.0, 0.5], dtype), hidden_size)[None]
    return scale, jnp.repeat(jnp.asarray([0.5, 0.5, 0.0, 0.5], dtype), hidden_size)[None]


def lstm_output(gates: Gates, state: LstmState) -> LstmState:
    """c' = f c + i g, h' = o tanh(c')."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = f * state.cell + i * g
    return LstmState(o * tanh(cell), cell)


def lstm_step(weights: Recurrent, state: LstmState, x: Gates, precision: Precision = "float32") -> LstmState:
    """c' = f c + i g, h' = o tanh(c') with the gates above.

    x is (B, 4H), packed i, f, g, o (Hochreiter and Schmidhuber 1997; Gers et al. 2000). The forget
    gate's bias of 1 (Jozefowicz et al. 2015) is part of x: initialisation, not computation.
    """
    return lstm_output(lstm_gates(weights, state, x, precision), state)


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


def cell_step(
    kind: CellKind, weights: Recurrent | None, state: LayerState, x: Gates, precision: Precision = "float32"
) -> LayerState:
    """One step of the named cell from `state` and a projected input x (B, G * H)."""
    match kind:
        case "rnn":
            return rnn_step(weights, state, x, precision)
        case "gru":
            return gru_step(weights, state, x, precision)
        case "lstm":
            return lstm_step(weights, state, x, precision)
        case _:
            decay, inflow = linear_coefficients(kind, x)
            return decay * state + inflow
