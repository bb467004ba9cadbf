"""Linear recurrences h_t = a_t h_{t-1} + b_t, element by element, in three forms that agree.

A scan makes T steps, which a CPU does fastest; composing the steps' affine maps is associative, so that an
accelerator may do it in O(log T) parallel steps, or chunk by chunk. The derivative of a linear recurrence is
another one, backwards in time, and is taken in the same form. Arrays are time-major, (T, B, H).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Steps = Float[Array, "time batch hidden"]
State = Float[Array, "batch hidden"]
Form = Literal["scan", "associative", "chunked", "auto"]
CHUNKED_FROM = 512  # steps, on an accelerator


def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """(a_2, b_2) after (a_1, b_1): (a_1 a_2, a_2 b_1 + b_2)."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def _by_scan(decay: Steps, inflow: Steps, state: State) -> Steps:
    def step(state, inputs):
        state = inputs[0] * state + inputs[1]
        return state, state

    return lax.scan(step, state, (decay, inflow))[1]


def _by_association(decay: Steps, inflow: Steps, state: State) -> Steps:
    """In O(log T) parallel steps (Blelloch 1990; Martin and Cundy 2018)."""
    total_decay, total_inflow = lax.associative_scan(compose, (decay, inflow), axis=0)
    return total_decay * state[None] + total_inflow


def _by_chunks(decay: Steps, inflow: Steps, state: State) -> Steps:
    """About sqrt(T) steps within all chunks at once, as many across them, and one combination.

    Steps that do nothing (a = 1, b = 0) fill the last chunk.
    """
    length = decay.shape[0]
    size = max(int(length**0.5), 1)
    count = -(-length // size)
    padding = ((0, count * size - length), (0, 0), (0, 0))
    padded = jnp.pad(decay, padding, constant_values=1.0), jnp.pad(inflow, padding)
    parts = tuple(jnp.swapaxes(p.reshape(count, size, *p.shape[1:]), 0, 1) for p in padded)

    def within(total, inputs):
        total = compose(total, inputs)
        return total, total

    nothing = jnp.ones_like(parts[0][0]), jnp.zeros_like(parts[1][0])
    whole, totals = lax.scan(within, nothing, parts)

    def across(state, chunk):
        return chunk[0] * state + chunk[1], state

    begins = lax.scan(across, state, whole)[1]
    states = totals[0] * begins[None] + totals[1]
    return jnp.swapaxes(states, 0, 1).reshape(count * size, *state.shape)[:length]


def _run(form: Form, decay: Steps, inflow: Steps, state: State) -> Steps:
    match form:
        case "scan":
            return _by_scan(decay, inflow, state)
        case "associative":
            return _by_association(decay, inflow, state)
        case "chunked":
            return _by_chunks(decay, inflow, state)
        case _:
            elsewhere = _by_chunks if decay.shape[0] >= CHUNKED_FROM else _by_association
            return lax.platform_dependent(decay, inflow, state, cpu=_by_scan, default=elsewhere)


def linear_states(decay: Steps, inflow: Steps, state: State, form: Form = "auto") -> Steps:
    """The states h_1 ... h_T, (T, B, H), from a, b (T, B, H) and h_0 (B, H).

    auto: a scan on a CPU; elsewhere the associative form, and from CHUNKED_FROM steps on the chunked one.
    """
    return _linear_states(form, decay, inflow, state)


def _forward(form, decay, inflow, state):
    states = _run(form, decay, inflow, state)
    return states, (decay, state, states)


def _backward(form, residuals, cotangent):
    """g_t = dh_t + a_{t+1} g_{t+1}; da_t = g_t h_{t-1}, db_t = g_t, dh_0 = a_1 g_1."""
    decay, state, states = residuals
    after = jnp.concatenate([decay[1:], jnp.zeros_like(decay[:1])])
    slopes = _run(form, after[::-1], cotangent[::-1], jnp.zeros_like(state))[::-1]
    before = jnp.concatenate([state[None], states[:-1]])
    return slopes * before, slopes, decay[0] * slopes[0]


_linear_states = jax.custom_vjp(_run, nondiff_argnums=(0,))
_linear_states.defvjp(_forward, _backward)
