"""The forms of a linear recurrence against the scan of its cell, and their derivative against autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.recurrence import linear, unrolled
from lmseq.recurrence.cells.cell import Recurrent
from lmseq.recurrence.cells.minimal import MINGRU, MINLSTM, RGLRU

H = 4
few = settings(max_examples=12)
FORMS = ["scan", "associative", "chunked", "auto"]


@partial(jax.jit, static_argnums=(0, 1))
def both(cell, form, xs, start):
    """What is found, and the scan that it is held against."""
    weights = Recurrent(None, jnp.linspace(-3.0, 3.0, H)) if cell.has_bias else None
    found = linear.linear_states(*cell.coefficients(weights, xs), start, form)
    return found, unrolled.scan_states(cell, weights, start, xs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", [MINGRU, MINLSTM, RGLRU], ids=lambda cell: cell.name)
@few
@given(
    time=st.sampled_from([1, 2, 7, 32, 40]),
    seed=st.integers(0, 100),
    scale=st.sampled_from([1.0, 10.0, 60.0]),
)
def test_every_form_is_the_scan_of_the_cell(cell, form, time, seed, scale):
    rng = np.random.default_rng(seed)
    xs = jnp.asarray(scale * rng.normal(size=(time, 2, cell.num_gates * H)), jnp.float32)
    start = jnp.asarray(rng.normal(size=(2, H)), jnp.float32)
    found, expected = both(cell, form, xs, start)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("time", [1, 2, 7, 64])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_are_those_of_the_scan(form, time, batch):
    with jax.enable_x64(True):
        rng = np.random.default_rng(time)
        decay = jnp.asarray(rng.random((time, batch, H)))
        inflow, weight = (jnp.asarray(rng.normal(size=(time, batch, H))) for _ in range(2))
        start = jnp.asarray(rng.normal(size=(batch, H)))

        def plain(decay, inflow, state):
            def step(state, inputs):
                state = inputs[0] * state + inputs[1]
                return state, state

            return jax.lax.scan(step, state, (decay, inflow))[1]

        def slopes(states):
            return jax.jit(jax.grad(lambda *args: jnp.sum(weight * states(*args)), (0, 1, 2)))(
                decay, inflow, start
            )

        found = slopes(lambda *args: linear.linear_states(*args, form))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, slopes(plain)
        )
