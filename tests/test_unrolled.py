"""Every cell's layer against a loop written from its formula, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.recurrence import unrolled
from lmseq.recurrence.cells import CELLS
from lmseq.recurrence.cells.cell import Recurrent
from lmseq.recurrence.cells.minimal import MINGRU, MINLSTM, RGLRU
from tests.oracles import cell_inputs, every_cell

H = 4
unroll_layer = jax.jit(unrolled.unroll_layer, static_argnums=0)
few = settings(max_examples=12)  # each new shape is compiled anew


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def rnn(state, x, u, b):
    return (np.tanh(x + state[0] @ u),)


def gru(state, x, u, b):
    (h,) = state
    s = h @ u
    r, z = sigmoid(x[:H] + s[:H]), sigmoid(x[H : 2 * H] + s[H : 2 * H])
    n = np.tanh(x[2 * H :] + r * (s[2 * H :] + b))
    return ((1 - z) * n + z * h,)


def lstm(state, x, u, b):
    h, c = state
    i, f, g, o = np.split(x + h @ u, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def mingru(state, x, u, b):
    z = sigmoid(x[:H])
    return ((1 - z) * state[0] + z * x[H:],)


def minlstm(state, x, u, b):
    f, i, c = sigmoid(x[:H]), sigmoid(x[H : 2 * H]), x[2 * H :]
    return (f / (f + i) * state[0] + i / (f + i) * c,)


def rglru(state, x, u, b):
    r, i, c = sigmoid(x[:H]), sigmoid(x[H : 2 * H]), x[2 * H :]
    a = np.exp(-8.0 * np.log1p(np.exp(b)) * r)
    return (a * state[0] + np.sqrt(1 - a**2) * i * c,)


FORMULAS = {"rnn": rnn, "gru": gru, "lstm": lstm, "mingru": mingru, "minlstm": minlstm, "rglru": rglru}


def test_every_cell_has_its_formula_here():
    assert list(FORMULAS) == [cell.name for cell in CELLS]


@every_cell
@few
@given(batch=st.sampled_from([1, 3]), time=st.sampled_from([1, 2, 9]), seed=st.integers(0, 100))
def test_unroll_layer_is_the_loop(cell, batch, time, seed):
    weights, start, xs = cell_inputs(cell, time, batch, H, seed)
    last, outputs = unroll_layer(cell, weights, start, xs)
    u, b = (None if w is None else np.asarray(w, np.float64) for w in weights or (None, None))
    for row in range(batch):
        state = tuple(np.asarray(leaf[row], np.float64) for leaf in jax.tree.leaves(start))
        for t in range(time):
            state = FORMULAS[cell.name](state, np.asarray(xs[t, row], np.float64), u, b)
            np.testing.assert_allclose(outputs[t, row], state[0], rtol=2e-5, atol=2e-5)
        for found, expected in zip(jax.tree.leaves(last), state, strict=True):
            np.testing.assert_allclose(found[row], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("cell", [MINGRU, MINLSTM, RGLRU], ids=lambda cell: cell.name)
def test_closed_and_open_gates_are_no_nan(cell):
    weights = Recurrent(None, jnp.linspace(-30.0, 30.0, H)) if cell.has_bias else None
    for signs in np.ndindex(*(2,) * cell.num_gates):
        x = jnp.repeat(jnp.asarray([(-300.0, 300.0)[sign] for sign in signs]), H)[None]
        decay, inflow = cell.coefficients(weights, x)
        assert np.isfinite(decay).all() and np.isfinite(inflow).all()
        assert ((decay >= 0) & (decay <= 1)).all()
        slopes = jax.grad(lambda x: sum(part.sum() for part in cell.coefficients(weights, x)))(x)
        assert np.isfinite(slopes).all()
