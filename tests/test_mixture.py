"""Mixtures and caches by their definitions; the contract's own tests are in test_models.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lmseq import scoring
from lmseq.models.interface import has_hidden
from lmseq.models.mixture import SHARPER, Mixture, fit_cache, fit_weights, with_cache
from lmseq.models.recurrent import RecurrentStack
from tests.oracles import small

V = 3


def stream(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, length).astype(np.int32)


def test_a_mixture_is_the_mean_of_probabilities():
    mixture, params = small("mixture")
    parts = [
        scoring.score_stream(part, p, stream(50)) for part, p in zip(mixture.parts, params.parts, strict=True)
    ]
    expected = np.log(np.exp(params.log_weights) @ np.exp(parts))
    np.testing.assert_allclose(scoring.score_stream(mixture, params, stream(50)), expected, rtol=1e-4)


def test_a_new_mixture_has_equal_weights():
    models = small("gru")[0], small("mlp")[0]
    params = Mixture(models).init(jax.random.key(0))
    np.testing.assert_allclose(np.exp(params.log_weights), 0.5, rtol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_weights_are_the_likeliest(seed, num_parts):
    """EM against a general optimiser, over a softmax."""
    probs = np.random.default_rng(seed).random((num_parts, 200))
    weights = fit_weights(np.log(probs))
    assert weights.sum() == pytest.approx(1.0)

    def loss(logits) -> float:
        w = np.exp(logits - logits.max())
        return -np.log(w @ probs / w.sum()).mean()

    best = minimize(
        loss, np.zeros(num_parts), method="Nelder-Mead", options={"fatol": 1e-10, "maxiter": 4000}
    )
    assert -np.log(weights @ probs).mean() <= best.fun + 1e-6


def test_a_part_that_knows_gets_all_the_weight():
    known, unknown = np.log(np.full(100, 0.9)), np.full(100, -np.inf)
    np.testing.assert_allclose(fit_weights(np.array([unknown, known])), [0.0, 1.0])


@pytest.mark.parametrize("log_probs", [np.zeros((2, 0)), np.full((2, 3), -np.inf), np.full((1, 2), np.nan)])
def test_tokens_that_no_part_allows(log_probs):
    with pytest.raises(ValueError, match="possible under at least one model"):
        fit_weights(log_probs)


def state_of(model, params, carry):
    """What a prediction is made of, by hand."""
    if isinstance(model.module, RecurrentStack):
        return np.asarray(model.module.cell.output(carry[-1])[0], np.float64)
    output = np.asarray(carry.output[0], np.float64)
    return output / np.sqrt(np.mean(output**2) + 1e-6) * np.asarray(params["norm"])


@pytest.mark.parametrize(("kind", "neural"), [("gru", False), ("gru", True), ("gru, gla, attention", True)])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_a_cache_by_its_definition(kind, neural, size):
    """At each step, the last tokens weighted by how alike the states are that they were predicted from."""
    model, params = small(kind)
    assert has_hidden(model) and not has_hidden(small("mlp")[0])
    cache, cached = with_cache(model, params, size, V, neural=neural)
    cached = cached._replace(weight=jnp.array(0.3), sharpness=jnp.array(0.7))
    xs = stream(20)
    carry, states, expected = model.init_carry(params, 1), [], []
    for t, x in enumerate(xs):
        state = state_of(model, params, carry)
        prob = np.exp(np.asarray(model.readout(params, carry)[0], np.float64))[x]
        if t:
            lately = range(max(0, t - size), t)
            shares = np.array([np.exp(0.7 * state @ states[i]) if neural else 1.0 for i in lately])
            match = np.array([xs[i] == x for i in lately])
            prob = 0.7 * prob + 0.3 * shares[match].sum() / shares.sum()
        expected.append(np.log(prob))
        states.append(state)
        carry = model.update(params, carry, jnp.array([x]))
    found = scoring.score_stream(cache, cached, xs, num_steps=4, batch_size=2)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("neural", [False, True])
def test_no_other_cache_fits_better(neural):
    model, params = small("gru")
    ids = np.repeat(stream(30), 4)  # where what came lately comes again
    fitted = fit_cache(model, params, ids, 10, V, neural=neural)
    assert (neural or fitted.sharpness == 1.0) and 0.0 < fitted.weight < 1.0
    assert float(fitted.params.weight) == pytest.approx(fitted.weight)
    least = -scoring.score_stream(fitted.model, fitted.params, ids).mean()
    around = fitted.sharpness * np.array([1.0, SHARPER, 1.0 / SHARPER])
    for sharpness in [*around, 0.03, 10.0] if neural else (1.0,):
        for weight in np.linspace(0.05, 0.95, 7):
            other = fitted.params._replace(weight=jnp.array(weight), sharpness=jnp.array(sharpness))
            assert least <= -scoring.score_stream(fitted.model, other, ids).mean() + 1e-5
