"""The chain rule against brute force, and the figures against closed forms."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import likelihood
from lmseq.contract import gather_log_probs
from tests.oracles import ALL, MarkovChain, chain_params, small

V = 3


def test_the_chain_rule_of_a_known_chain():
    initial, transition = (
        np.array([0.5, 0.3, 0.2]),
        np.array([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2], [0.0, 0.5, 0.5]]),
    )
    params = chain_params(initial, transition)
    string = jnp.array([1, 0, 2, 2, 1])
    expected = [0.3, 0.4, 0.3, 0.5, 0.5]
    np.testing.assert_allclose(likelihood.score(MarkovChain(3), params, string), np.log(expected), rtol=1e-6)
    impossible = likelihood.score(MarkovChain(3), params, jnp.array([2, 0]))
    assert impossible[1] == -np.inf and likelihood.loss_figures(np.inf, 2)["perplexity"] == math.inf


@pytest.mark.parametrize("kind", ALL)
def test_each_token_is_predicted_from_those_before_it(kind):
    model, params = small(kind)
    string = jnp.array([2, 0, 1, 1])
    carry, expected = model.init_carry(params, 1), []
    for token in string:
        expected.append(gather_log_probs(model.readout(params, carry), token[None])[0])
        carry = model.update(params, carry, token[None])
    np.testing.assert_allclose(
        likelihood.score(model, params, string), np.array(expected), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        likelihood.score(model, params, string[:1]), expected[:1], rtol=1e-5, atol=1e-6
    )


def test_nothing_to_score_is_an_error():
    model, params = small("chain")
    with pytest.raises(ValueError, match="at least one token"):
        likelihood.score(model, params, jnp.zeros(0, jnp.int32))


def test_totals_leave_out_what_is_masked():
    log_probs = jnp.array([[-1.0, -np.inf], [-2.5, np.nan]])
    totals = likelihood.nll_totals(log_probs, jnp.array([[True, False], [True, False]]))
    assert (float(totals.nll), int(totals.count)) == (3.5, 2)
    assert likelihood.nll_totals(log_probs[:1], jnp.ones((1, 2), bool)).nll == np.inf


def test_the_figures_of_a_uniform_model():
    figures = likelihood.loss_figures(10 * math.log(V), 10, num_chars=20)
    assert figures["loss"] == pytest.approx(math.log(V), rel=1e-15)
    assert figures["perplexity"] == pytest.approx(V, rel=1e-14)
    assert figures["bits_per_char"] == pytest.approx(math.log2(V) / 2, rel=1e-14)
    assert likelihood.loss_figures(0.0, 3) == {"loss": 0.0, "perplexity": 1.0}


@pytest.mark.parametrize("nll, count, chars", [(1.0, 0, None), (1.0, 1, 0)])
def test_no_figures_of_nothing(nll, count, chars):
    with pytest.raises(ValueError, match="at least one token and character"):
        likelihood.loss_figures(nll, count, chars)
