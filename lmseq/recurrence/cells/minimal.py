"""minGRU and minLSTM (Feng et al. 2024, "Were RNNs all we needed?"): linear recurrences in the state.

Their gates depend on the input alone: h_t = a_t h_{t-1} + b_t element by element, without a kernel inside the
loop. These are the forms whose output does not depend on time's scale.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.layers import Precision
from lmseq.recurrence.cells.cell import Cell, Gates, State

Coefficients = tuple[Float[Array, "*dims hidden"], Float[Array, "*dims hidden"]]


def mingru_coefficients(x: Float[Array, "*dims gates"]) -> Coefficients:
    """a = 1 - z, b = z c with z = sigmoid(x_z) and candidate c = x_c; x is (..., 2H), packed z, c."""
    gate, candidate = jnp.split(x, 2, axis=-1)
    return jax.nn.sigmoid(-gate), jax.nn.sigmoid(gate) * candidate


def minlstm_coefficients(x: Float[Array, "*dims gates"]) -> Coefficients:
    """a = f / (f + i), b = i c / (f + i) with sigmoid gates f, i; x is (..., 3H), packed f, i, c."""
    forget, take, candidate = jnp.split(x, 3, axis=-1)
    # f / (f + i) = sigmoid(log f - log i): no quotient, no 0 / 0 when both gates close.
    ratio = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(take)
    return jax.nn.sigmoid(ratio), jax.nn.sigmoid(-ratio) * candidate


def mingru_step(weights: None, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = (1 - z) h + z c."""
    decay, inflow = mingru_coefficients(x)
    return decay * state + inflow


def minlstm_step(weights: None, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = (f h + i c) / (f + i)."""
    decay, inflow = minlstm_coefficients(x)
    return decay * state + inflow


MINGRU = Cell("mingru", 2, mingru_step, has_kernel=False, coefficients=mingru_coefficients)
MINLSTM = Cell("minlstm", 3, minlstm_step, has_kernel=False, coefficients=minlstm_coefficients)
