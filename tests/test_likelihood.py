"""The chain rule against brute force, and the figures against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import scoring
from lmseq.contract import gather_log_probs
from tests.oracles import ALL, MarkovChain, all_strings, chain_params, small

V = 3
sequence_log_probs = jax.jit(scoring.sequence_log_probs, static_argnums=0)


def test_the_chain_rule_of_a_known_chain():
    initial, transition = (
        np.array([0.5, 0.3, 0.2]),
        np.array([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2], [0.0, 0.5, 0.5]]),
    )
    params = chain_params(initial, transition)
    string = jnp.array([1, 0, 2, 2, 1])
    expected = [0.3, 0.4, 0.3, 0.5, 0.5]
    np.testing.assert_allclose(scoring.score(MarkovChain(3), params, string), np.log(expected), rtol=1e-6)
    impossible = scoring.score(MarkovChain(3), params, jnp.array([2, 0]))
    assert impossible[1] == -np.inf and scoring.loss_figures(np.inf, 2)["perplexity"] == math.inf


@pytest.mark.parametrize("kind", ALL)
def test_each_token_is_predicted_from_those_before_it(kind):
    model, params = small(kind)
    string = jnp.array([2, 0, 1, 1])
    carry, expected = model.init_carry(params, 1), []
    for token in string:
        expected.append(gather_log_probs(model.readout(params, carry), token[None])[0])
        carry = model.update(params, carry, token[None])
    np.testing.assert_allclose(scoring.score(model, params, string), np.array(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scoring.score(model, params, string[:1]), expected[:1], rtol=1e-5, atol=1e-6)


def test_nothing_to_score_is_an_error():
    model, params = small("chain")
    with pytest.raises(ValueError, match="at least one token"):
        scoring.score(model, params, jnp.zeros(0, jnp.int32))


def test_totals_leave_out_what_is_masked():
    log_probs = jnp.array([[-1.0, -np.inf], [-2.5, np.nan]])
    totals = scoring.nll_totals(log_probs, jnp.array([[True, False], [True, False]]))
    assert (float(totals.nll), int(totals.count)) == (3.5, 2)
    assert scoring.nll_totals(log_probs[:1], jnp.ones((1, 2), bool)).nll == np.inf


def test_the_figures_of_a_uniform_model():
    figures = scoring.loss_figures(10 * math.log(V), 10, num_chars=20)
    assert figures["loss"] == pytest.approx(math.log(V), rel=1e-15)
    assert figures["perplexity"] == pytest.approx(V, rel=1e-14)
    assert figures["bits_per_char"] == pytest.approx(math.log2(V) / 2, rel=1e-14)
    assert scoring.loss_figures(0.0, 3) == {"loss": 0.0, "perplexity": 1.0}


@pytest.mark.parametrize("nll, count, chars", [(1.0, 0, None), (1.0, 1, 0)])
def test_no_figures_of_nothing(nll, count, chars):
    with pytest.raises(ValueError, match="at least one token and character"):
        scoring.loss_figures(nll, count, chars)


@pytest.mark.parametrize("kind", ALL)
def test_a_prefix_is_as_likely_as_all_that_it_can_become(kind):
    """Brute force: the table of all strings, summed over their last tokens, is the table of prefixes."""
    model, params = small(kind)
    table = np.asarray(sequence_log_probs(model, params, jnp.asarray(all_strings(V, 4))), np.float64)
    whole = np.exp(table.sum(axis=1))
    for length in (1, 2, 3):
        prefixes = table[:, :length].reshape(V**length, -1, length)
        np.testing.assert_allclose(prefixes, np.broadcast_to(prefixes[:, :1], prefixes.shape), rtol=1e-5)
        summed = whole.reshape(V**length, -1).sum(axis=1)
        np.testing.assert_allclose(np.exp(prefixes[:, 0].sum(axis=1)), summed, rtol=1e-5)


def test_a_large_loss_has_infinite_perplexity_and_nan_stays_visible():
    for nll in (1e6, math.inf):
        figures = scoring.loss_figures(nll, 1, 1)
        assert figures["loss"] == nll and figures["perplexity"] == math.inf
    assert scoring.loss_figures(700.0, 1)["perplexity"] == pytest.approx(math.exp(700.0))
