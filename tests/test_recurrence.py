"""Cells and their unrolling against loops written from the formulas, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import recurrence
from lmseq.recurrence import LstmState, Recurrent

H = 4
unroll_layer = jax.jit(recurrence.unroll_layer, static_argnums=0)
associative_layer = jax.jit(recurrence.associative_layer, static_argnums=0)
scan_layer = jax.jit(recurrence.scan_layer, static_argnums=0)
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
    gates = recurrence.NUM_GATES[kind] * H
    kernel = jnp.asarray(rng.normal(size=(H, gates)), jnp.float32)
    return Recurrent(kernel, jnp.asarray(rng.normal(size=H), jnp.float32) if kind == "gru" else None)


@pytest.mark.parametrize("kind", list(LOOPS))
@few
@given(batch=st.sampled_from([1, 3]), time=st.sampled_from([1, 2, 9]), seed=st.integers(0, 100))
def test_unroll_layer_is_the_loop(kind, batch, time, seed):
    rng = np.random.default_rng(seed)
    w = weights(kind, rng)
    xs = rng.normal(size=(batch, time, recurrence.NUM_GATES[kind] * H)).astype(np.float32)
    start = rng.normal(size=(batch, H)).astype(np.float32)
    last, outputs = unroll_layer(kind, w, jnp.asarray(start), jnp.asarray(xs))
    u = None if w is None else np.asarray(w.kernel, np.float64)
    b = None if w is None or w.bias is None else np.asarray(w.bias, np.float64)
    for row in range(batch):
        h = start[row].astype(np.float64)
        for t in range(time):
            h = LOOPS[kind](h, xs[row, t].astype(np.float64), u, b)
            np.testing.assert_allclose(outputs[row, t], h, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(last[row], h, rtol=2e-5, atol=2e-5)


@few
@given(time=st.sampled_from([1, 2, 9]), seed=st.integers(0, 100))
def test_the_lstm_is_the_loop(time, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(H, 4 * H)).astype(np.float32)
    xs = rng.normal(size=(1, time, 4 * H)).astype(np.float32)
    h, c = rng.normal(size=(2, H)).astype(np.float32)
    state = LstmState(jnp.asarray(h[None]), jnp.asarray(c[None]))
    last, outputs = unroll_layer("lstm", Recurrent(jnp.asarray(kernel)), state, jnp.asarray(xs))
    h, c = h.astype(np.float64), c.astype(np.float64)
    for t in range(time):
        i, f, g, o = np.split(xs[0, t] + h @ kernel, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(outputs[0, t], h, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(last.cell[0], c, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["mingru", "minlstm"])
@few
@given(
    time=st.sampled_from([1, 2, 7, 32, 40]),
    seed=st.integers(0, 100),
    scale=st.sampled_from([1.0, 10.0, 60.0]),
)
def test_the_associative_scan_is_the_scan(kind, time, seed, scale):
    rng = np.random.default_rng(seed)
    xs = jnp.asarray(scale * rng.normal(size=(2, time, recurrence.NUM_GATES[kind] * H)), jnp.float32)
    start = jnp.asarray(rng.normal(size=(2, H)), jnp.float32)
    last, outputs = associative_layer(kind, start, xs)
    expected_last, expected = scan_layer(kind, None, start, xs)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(last, expected_last, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["mingru", "minlstm"])
def test_closed_and_open_gates_are_no_nan(kind):
    gates = recurrence.NUM_GATES[kind]
    for signs in np.ndindex(*(2,) * gates):
        x = jnp.repeat(jnp.asarray([(-300.0, 300.0)[sign] for sign in signs]), H)[None]
        decay, inflow = recurrence.linear_coefficients(kind, x)
        assert np.isfinite(decay).all() and np.isfinite(inflow).all()
        assert ((decay >= 0) & (decay <= 1)).all()
        slopes = jax.grad(lambda x: sum(part.sum() for part in recurrence.linear_coefficients(kind, x)))(x)
        assert np.isfinite(slopes).all()


@few
@given(
    vocab=st.integers(1, 7), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 9)
)
def test_lookup_and_its_gradient_are_those_of_indexing(vocab, shape, seed):
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(vocab, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(vocab, size=shape))
    weight = jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32)
    np.testing.assert_array_equal(recurrence.lookup(table, ids), table[ids])
    ours = jax.grad(lambda table: (weight * recurrence.lookup(table, ids)).sum())(table)
    theirs = jax.grad(lambda table: (weight * table[ids]).sum())(table)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_linear_recurrence_has_no_cell_of_another_kind():
    with pytest.raises(ValueError, match="mingru, minlstm"):
        recurrence.linear_coefficients("gru", jnp.zeros((1, 3 * H)))
