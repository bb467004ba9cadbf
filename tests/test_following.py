"""Mixtures whose weights follow the text, by their definition; the contract's tests are in test_models.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import scoring
from lmseq.models.following import Following, FollowingParams, fit_share, follow
from lmseq.models.mixture import Mixture, MixtureParams
from tests.oracles import MarkovChain, all_strings, chain_params, random_stream, small

V = 3


def following(share: float):
    mixture, params = small("mixture")
    return Following(mixture), FollowingParams(params, jnp.array(share))


def by_hand(weights: np.ndarray, share: float, probs: np.ndarray) -> np.ndarray:
    """The recurrence with plain numbers, of p (M, T)."""
    w, found = weights, []
    for p in probs.T:
        found.append(np.log(w @ p))
        w = (1 - share) * w * p / (w @ p) + share * weights
        assert w.sum() == pytest.approx(1.0)
    return np.array(found)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.7])
def test_weights_by_their_definition(share):
    model, params = following(share)
    stream = random_stream(40)
    pairs = zip(model.mixture.parts, params.mixture.parts, strict=True)
    log_probs = np.stack([scoring.score_stream(part, p, stream) for part, p in pairs])
    weights = np.exp(np.asarray(params.mixture.log_weights, np.float64))
    expected = by_hand(weights, share, np.exp(log_probs.astype(np.float64)))
    found = scoring.score_stream(model, params, stream, num_steps=7, batch_size=3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(follow(weights, share, log_probs), expected, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_probabilities_of_all_strings_sum_to_one(share):
    log_probs = scoring.sequence_log_probs(*following(share), jnp.asarray(all_strings(V, 5)))
    assert np.exp(np.asarray(log_probs, np.float64).sum(axis=1)).sum() == pytest.approx(1.0, abs=1e-5)


def test_a_share_of_one_is_the_mixture_bit_for_bit():
    model, params = following(1.0)
    stream = random_stream(60)
    expected = scoring.score_stream(model.mixture, params.mixture, stream)
    np.testing.assert_array_equal(scoring.score_stream(model, params, stream), expected)
    tokens = jnp.asarray(stream)[None]
    carry, predictions = jax.jit(model.unroll)(params, model.init_carry(params, 1), tokens)
    start = model.mixture.init_carry(params.mixture, 1)
    expected = jax.jit(model.mixture.unroll)(params.mixture, start, tokens)
    jax.tree.map(np.testing.assert_array_equal, (carry.parts, predictions), expected)
    np.testing.assert_array_equal(carry.log_weights[0], params.mixture.log_weights)


def chains():
    """Two sources, of which the first never leaves token 0 or 1 and the second says all alike."""
    model, evenly = MarkovChain(V), np.full((V, V), 1 / V)
    sure = np.array([[0.5, 0.5, 0.0]] * V)
    return [model, model], tuple(chain_params(rows[0], rows) for rows in (sure, evenly))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 0.0]])
def test_tokens_that_parts_do_not_allow(weights):
    """A weight of zero stays zero; where no part allows a token, later ones are predicted all the same."""
    models, parts = chains()
    with np.errstate(divide="ignore"):
        params = MixtureParams(jnp.asarray(np.log(weights), jnp.float32), parts)
    model = Following(Mixture(tuple(models)))
    found = scoring.score(model, FollowingParams(params, jnp.array(0.1)), np.array([0, 2, 1, 0]))
    assert not np.any(np.isnan(found))
    assert np.isneginf(found[1]) == (weights[1] == 0.0)
    assert np.all(np.isfinite(found[2:]))


def test_the_likeliest_share():
    """Parts that take turns want a share between; parts that stay as good as they are want none changed."""
    turns = np.repeat([[0.9, 0.1], [0.1, 0.9]] * 5, 20, axis=0).T
    weights, shares = np.array([0.5, 0.5]), (1.0, 0.5, 0.05, 0.0)
    assert fit_share(weights, np.log(turns), shares) == 0.05
    assert fit_share(weights, np.log(np.full((2, 30), 0.5)), shares) == 1.0
