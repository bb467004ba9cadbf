"""Products, lookups and the softmax against what autodiff makes of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from lmseq import layers

few = settings(max_examples=12)  # each new shape is compiled anew


@few
@given(
    vocab=st.integers(1, 7), shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 9)
)
def test_lookup_and_its_gradient_are_those_of_indexing(vocab, shape, seed):
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(vocab, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(vocab, size=shape))
    weight = jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32)
    np.testing.assert_array_equal(layers.lookup(table, ids), table[ids])
    ours = jax.grad(lambda table: (weight * layers.lookup(table, ids)).sum())(table)
    theirs = jax.grad(lambda table: (weight * table[ids]).sum())(table)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@few
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_a_rounded_product_is_that_of_rounded_operands(shape, seed):
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(*shape, 5)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    weight = rng.normal(size=(*shape, 3)).astype(np.float32)
    short = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, kernel, weight)]
    value, (d_x, d_kernel) = jax.value_and_grad(
        lambda x, kernel: (weight * layers.product(x, kernel, "bfloat16")).sum(), argnums=(0, 1)
    )(jnp.asarray(x), jnp.asarray(kernel))
    assert d_x.dtype == d_kernel.dtype == jnp.float32
    np.testing.assert_allclose(value, (weight * (short[0] @ short[1])).sum(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_x, short[2] @ short[1].T, rtol=1e-2, atol=1e-6)
    flat = [a.reshape(-1, a.shape[-1]) for a in short]
    np.testing.assert_allclose(d_kernel, flat[0].T @ flat[2], rtol=1e-5, atol=1e-5)


def plain_log_probs(hidden, kernel, bias, targets):
    logits = hidden @ kernel + jnp.broadcast_to(bias, (*hidden.shape[:-1], bias.size))
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize("chunk", [1, 40, 1 << 24])
@few
@given(batch=st.sampled_from([1, 3]), time=st.sampled_from([1, 2, 7]), seed=st.integers(0, 9))
def test_log_probs_and_their_gradient_are_those_of_log_softmax(chunk, batch, time, seed):
    before, layers.CHUNK = layers.CHUNK, chunk
    with jax.enable_x64(True):
        try:
            rng = np.random.default_rng(seed)
            hidden, kernel, bias, weight = (
                jnp.asarray(rng.normal(size=shape))
                for shape in ((time, batch, 4), (4, 11), (11,), (time, batch))
            )
            targets = jnp.asarray(rng.integers(11, size=(time, batch)))
            values, gradients = [], []
            for log_probs in (layers.softmax_log_probs, plain_log_probs):

                def total(hidden, kernel, bias, log_probs=log_probs):
                    return (weight * log_probs(hidden, kernel, bias, targets)).sum()

                value, gradient = jax.value_and_grad(total, argnums=(0, 1, 2))(hidden, kernel, bias)
                values.append(value)
                gradients.append(gradient)
            np.testing.assert_allclose(*values, rtol=1e-12, atol=1e-12)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *gradients)
        finally:
            layers.CHUNK = before


def test_log_probs_differentiate_numerically():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        hidden, kernel, bias = (jnp.asarray(rng.normal(size=s)) for s in ((2, 3, 4), (4, 5), (5,)))
        targets = jnp.asarray(rng.integers(5, size=(2, 3)))
        log_probs = jax.jit(lambda *args: layers.softmax_log_probs(*args, targets))
        check_grads(log_probs, (hidden, kernel, bias), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_a_long_batch_over_a_large_vocabulary_holds_no_two_arrays_of_all_logits():
    rows, hidden, vocab = 4096, 8, 16384  # 2^26 logits, 256 MiB
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, hidden), (hidden, vocab), (vocab,))]
    targets = jax.ShapeDtypeStruct((rows,), jnp.int32)

    def peak(log_probs):
        def loss(*args):
            return log_probs(*args).sum()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes, targets).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(layers.softmax_log_probs) < 4 * rows * vocab < peak(plain_log_probs)


def test_an_impossible_target_has_no_probability_and_no_nan():
    bias = jnp.asarray([0.0, -jnp.inf, 0.0])
    hidden, kernel, targets = jnp.ones((2, 1)), jnp.zeros((1, 3)), jnp.asarray([1, 0])
    log_probs = layers.softmax_log_probs(hidden, kernel, bias, targets)
    np.testing.assert_allclose(log_probs, [-np.inf, -np.log(2.0)], rtol=1e-6)
    slope = jax.grad(lambda b: layers.softmax_log_probs(hidden, kernel, b, targets)[1])(bias)
    np.testing.assert_allclose(slope, [0.5, 0.0, -0.5], rtol=1e-6)
