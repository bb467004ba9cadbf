"""Linear recurrences in the state: h_t = a_t h_{t-1} + b_t, element by element, gates of the input alone.

minGRU and minLSTM (Feng et al. 2024, "Were RNNs all we needed?"), in the forms whose output does not
depend on time's scale; and the RG-LRU of Griffin (De et al. 2024).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.layers import Precision
from lmseq.recurrence.cells.cell import Cell, Gates, Recurrent, State
from lmseq.types import PRNGKey

Coefficients = tuple[Float[Array, "*dims hidden"], Float[Array, "*dims hidden"]]


def mingru_coefficients(weights: None, x: Float[Array, "*dims gates"]) -> Coefficients:
    """a = 1 - z, b = z c with z = sigmoid(x_z) and candidate c = x_c; x is (..., 2H), packed z, c."""
    gate, candidate = jnp.split(x, 2, axis=-1)
    return jax.nn.sigmoid(-gate), jax.nn.sigmoid(gate) * candidate


def minlstm_coefficients(weights: None, x: Float[Array, "*dims gates"]) -> Coefficients:
    """a = f / (f + i), b = i c / (f + i) with sigmoid gates f, i; x is (..., 3H), packed f, i, c."""
    forget, take, candidate = jnp.split(x, 3, axis=-1)
    # f / (f + i) = sigmoid(log f - log i): no quotient, no 0 / 0 when both gates close.
    ratio = jax.nn.log_sigmoid(forget) - jax.nn.log_sigmoid(take)
    return jax.nn.sigmoid(ratio), jax.nn.sigmoid(-ratio) * candidate


def mingru_step(weights: None, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = (1 - z) h + z c."""
    decay, inflow = mingru_coefficients(weights, x)
    return decay * state + inflow


def minlstm_step(weights: None, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = (f h + i c) / (f + i)."""
    decay, inflow = minlstm_coefficients(weights, x)
    return decay * state + inflow


DECAY_RATE = 8.0  # c


def rglru_coefficients(weights: Recurrent, x: Float[Array, "*dims gates"]) -> Coefficients:
    """log a = -c softplus(L) sigmoid(x_r), b = sqrt(1 - a^2) sigmoid(x_i) x_c; x (..., 3H), packed r, i, c.

    L (H,) is the bias inside the loop, and c = 8: an open gate r has each unit forget at its own rate.
    """
    rate, take, candidate = jnp.split(x, 3, axis=-1)
    rates = jnp.broadcast_to(-DECAY_RATE * jax.nn.softplus(weights.bias), rate.shape)
    log_decay = rates * jax.nn.sigmoid(rate)
    # 1 - a^2 without cancellation; at 0 its root has no slope.
    inflow = jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_decay), 1e-12))
    return jnp.exp(log_decay), inflow * jax.nn.sigmoid(take) * candidate


def rglru_step(weights: Recurrent, state: State, x: Gates, precision: Precision = "float32") -> State:
    """h' = a h + sqrt(1 - a^2) (i c)."""
    decay, inflow = rglru_coefficients(weights, x)
    return decay * state + inflow


def first_decays(key: PRNGKey, hidden_size: int) -> Float[Array, "hidden"]:
    """L with which an open gate keeps an even share of 0.9 to 0.999 of a unit."""
    kept = jax.random.uniform(key, (hidden_size,), minval=0.9, maxval=0.999)
    return jnp.log(jnp.expm1(-jnp.log(kept) / DECAY_RATE))


MINGRU = Cell("mingru", 2, mingru_step, has_kernel=False, coefficients=mingru_coefficients)
MINLSTM = Cell("minlstm", 3, minlstm_step, has_kernel=False, coefficients=minlstm_coefficients)
RGLRU = Cell(
    "rglru",
    3,
    rglru_step,
    has_kernel=False,
    has_bias=True,
    first_bias=first_decays,
    coefficients=rglru_coefficients,
)
