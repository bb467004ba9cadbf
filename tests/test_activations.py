"""The activations of the gates against float64, and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np

from lmseq.recurrence import activations


def test_tanh_and_sigmoid_are_within_their_bounds():
    x = np.linspace(-20.0, 20.0, 400_001, dtype=np.float32)
    exact = np.tanh(x.astype(np.float64))
    found = np.asarray(jax.jit(activations.tanh)(x), np.float64)
    assert np.abs(found - exact).max() < 3.6e-7
    assert np.abs(found).max() <= 1.0
    np.testing.assert_array_equal(found, -found[::-1])
    logistic = 1.0 / (1.0 + np.exp(-x.astype(np.float64)))
    assert np.abs(np.asarray(jax.jit(activations.sigmoid)(x), np.float64) - logistic).max() < 2.5e-7


def test_what_is_no_number_stays_none():
    found = np.asarray(activations.tanh(jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 0.0])))
    np.testing.assert_allclose(found, [np.nan, 1.0, -1.0, 0.0], atol=1e-6)


def test_the_slope_of_tanh_is_one_minus_its_square():
    x = jnp.linspace(-9.0, 9.0, 1001)
    slopes = jax.vmap(jax.grad(activations.tanh))(x)
    np.testing.assert_allclose(slopes, 1.0 - np.tanh(np.asarray(x, np.float64)) ** 2, atol=7e-7)


def test_float64_is_exact():
    with jax.enable_x64(True):
        x = jnp.linspace(-5.0, 5.0, 101)
        np.testing.assert_array_equal(activations.tanh(x), jnp.tanh(x))


def test_gelu_is_its_definition_and_has_its_slope():
    with jax.enable_x64(True):
        x = jnp.asarray([-1e30, -1000.0, -30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0, 1000.0, 1e30])
        np.testing.assert_allclose(activations.gelu(x), jax.nn.gelu(x), rtol=1e-12)
        slopes = jax.vmap(jax.grad(jax.nn.gelu))(x[1:-1])
        np.testing.assert_allclose(jax.vmap(jax.grad(activations.gelu))(x[1:-1]), slopes, atol=1e-12)
    slopes = jax.vmap(jax.grad(activations.gelu))(x.astype(jnp.float32))
    np.testing.assert_allclose(slopes[jnp.array([0, 1, 2, -3, -2, -1])], [0, 0, 0, 1, 1, 1], atol=1e-3)
