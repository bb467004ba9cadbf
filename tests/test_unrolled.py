"""Cells and their unrolling against loops written from the formulas, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.recurrence import cells, unrolled
from lmseq.recurrence.cells import LstmState, Recurrent

H = 4
unroll_layer = jax.jit(unrolled.unroll_layer, static_argnums=0)
few = settings(max_examples=12)  # each new shape is compiled anew


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def rnn(h, x, u, b):
    return np.tanh(x + h @ u)


def gru(h, x, u, b):
    s = h @ u
    r, z = sigmoid(x[:H] + s[:H]), sigmoid(x[H : 2 * H] + s[H : 2 * H])
    n = np.tanh(x[2 * H :] + r * (s[2 * H :] + b))
    return (1 - z) * n + z * h


def mingru(h, x, u, b):
    z = sigmoid(x[:H])
    return (1 - z) * h + z * x[H:]


def minlstm(h, x, u, b):
    f, i, c = sigmoid(x[:H]), sigmoid(x[H : 2 * H]), x[2 * H :]
    return f / (f + i) * h + i / (f + i) * c


LOOPS = {"rnn": rnn, "gru": gru, "mingru": mingru, "minlstm": minlstm}


def weights(kind, rng):
    if kind in ("mingru", "minlstm"):
        return None
    gates = cells.NUM_GATES[kind] * H
    kernel = jnp.asarray(rng.normal(size=(H, gates)), jnp.float32)
    return Recurrent(kernel, jnp.asarray(rng.normal(size=H), jnp.float32) if kind == "gru" else None)


@pytest.mark.parametrize("kind", list(LOOPS))
@few
@given(batch=st.sampled_from([1, 3]), time=st.sampled_from([1, 2, 9]), seed=st.integers(0, 100))
def test_unroll_layer_is_the_loop(kind, batch, time, seed):
    rng = np.random.default_rng(seed)
    w = weights(kind, rng)
    xs = rng.normal(size=(batch, time, cells.NUM_GATES[kind] * H)).astype(np.float32)
    start = rng.normal(size=(batch, H)).astype(np.float32)
    last, outputs = unroll_layer(kind, w, jnp.asarray(start), jnp.asarray(xs.swapaxes(0, 1)))
    u = None if w is None else np.asarray(w.kernel, np.float64)
    b = None if w is None or w.bias is None else np.asarray(w.bias, np.float64)
    for row in range(batch):
        h = start[row].astype(np.float64)
        for t in range(time):
            h = LOOPS[kind](h, xs[row, t].astype(np.float64), u, b)
            np.testing.assert_allclose(outputs[t, row], h, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(last[row], h, rtol=2e-5, atol=2e-5)


@few
@given(time=st.sampled_from([1, 2, 9]), seed=st.integers(0, 100))
def test_the_lstm_is_the_loop(time, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(H, 4 * H)).astype(np.float32)
    xs = rng.normal(size=(1, time, 4 * H)).astype(np.float32)
    h, c = rng.normal(size=(2, H)).astype(np.float32)
    state = LstmState(jnp.asarray(h[None]), jnp.asarray(c[None]))
    last, outputs = unroll_layer(
        "lstm", Recurrent(jnp.asarray(kernel)), state, jnp.asarray(xs.swapaxes(0, 1))
    )
    h, c = h.astype(np.float64), c.astype(np.float64)
    for t in range(time):
        i, f, g, o = np.split(xs[0, t] + h @ kernel, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(outputs[t, 0], h, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(last.cell[0], c, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["mingru", "minlstm"])
def test_closed_and_open_gates_are_no_nan(kind):
    gates = cells.NUM_GATES[kind]
    for signs in np.ndindex(*(2,) * gates):
        x = jnp.repeat(jnp.asarray([(-300.0, 300.0)[sign] for sign in signs]), H)[None]
        decay, inflow = cells.linear_coefficients(kind, x)
        assert np.isfinite(decay).all() and np.isfinite(inflow).all()
        assert ((decay >= 0) & (decay <= 1)).all()
        slopes = jax.grad(lambda x: sum(part.sum() for part in cells.linear_coefficients(kind, x)))(x)
        assert np.isfinite(slopes).all()


def test_a_linear_recurrence_has_no_cell_of_another_kind():
    with pytest.raises(ValueError, match="mingru, minlstm"):
        cells.linear_coefficients("gru", jnp.zeros((1, 3 * H)))
