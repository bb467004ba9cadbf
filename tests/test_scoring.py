"""The chain rule against brute force, figures against closed forms, and streams however they are cut."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import scoring
from lmseq.contract import gather_log_probs
from tests.oracles import ALL, Counter, MarkovChain, all_strings, chain_params, random_stream, small

V = 3
sequence_log_probs = jax.jit(scoring.sequence_log_probs, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def advance(model, params, carry, token):
    """The log-probability of a token, and the carry after it."""
    log_probs = gather_log_probs(model.readout(params, carry), token)
    return log_probs[0], model.update(params, carry, token)


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
        log_prob, carry = advance(model, params, carry, token[None])
        expected.append(log_prob)
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


# Streams


@pytest.mark.parametrize("kind", ALL)
def test_a_cut_stream_scores_as_an_uncut_one(kind):
    model, params = small(kind)
    tokens = random_stream(101)
    expected = np.asarray(scoring.score(model, params, tokens), np.float64)
    for num_steps, batch_size in ((7, 4), (1000, 3)):
        log_probs = scoring.score_stream(model, params, tokens, num_steps=num_steps, batch_size=batch_size)
        np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=2e-5)
        assert log_probs.sum(dtype=np.float64) == pytest.approx(expected.sum(), rel=1e-6)


@settings(max_examples=12)
@given(
    length=st.integers(1, 70),
    num_steps=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_any_cut_of_any_stream(length, num_steps, batch_size, seed):
    """Of a model that never forgets: every strip depends on all the strips before it."""
    model = Counter(5)
    params = model.init(jax.random.key(1))
    tokens = random_stream(length, seed, 5)
    carries = np.append(0, np.cumsum(tokens)[:-1]) % 5
    expected = np.asarray(params["transition"])[carries, tokens]
    log_probs = scoring.score_stream(model, params, tokens, num_steps=num_steps, batch_size=batch_size)
    np.testing.assert_array_equal(log_probs, expected)


def test_an_impossible_token_is_minus_infinity_and_ends():
    params = chain_params(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [1.0, 0.0]]))
    tokens = np.array([0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0], np.int32)
    log_probs = scoring.score_stream(MarkovChain(2), params, tokens, num_steps=2, batch_size=3)
    assert np.flatnonzero(np.isneginf(log_probs)).tolist() == [2, 9]
    assert np.isfinite(np.delete(log_probs, [2, 9])).all()


def test_parameters_that_are_not_numbers_give_no_number_and_end():
    model, params = small("gru")
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    assert np.isnan(scoring.score_stream(model, broken, random_stream(50), num_steps=4, batch_size=4)).all()


def test_an_empty_stream_is_an_error():
    model, params = small("chain")
    with pytest.raises(ValueError, match="at least one token"):
        scoring.score_stream(model, params, random_stream(0))


def test_the_mean_loss_of_a_stream_is_that_of_its_tokens():
    model, params = small("gru")
    tokens = random_stream(101)
    expected = -np.asarray(scoring.score(model, params, tokens), np.float64).mean()
    assert scoring.mean_loss(model, params, tokens) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="at least one token"):
        scoring.mean_loss(model, params, random_stream(0))


# Excerpts


@given(size=st.integers(1, 5000), most=st.integers(0, 5000))
def test_an_excerpt_is_strips_of_the_stream_in_order(size, most):
    stream = np.arange(size)
    part = scoring.excerpt(stream, most)
    counted = part.tokens[part.counted]
    if not 0 < most < size:
        assert part.is_whole and np.array_equal(part.tokens, stream) and part.counted.all()
        return
    assert not part.is_whole and part.num_tokens == size
    assert most - scoring.EXCERPT_STRIPS < counted.size <= most
    assert (np.diff(counted) > 0).all()  # each token once
    num_strips = min(most, scoring.EXCERPT_STRIPS)
    assert counted[-1] == size - 1 and len(np.unique(part.strip[part.counted])) == num_strips
    for number in range(num_strips):  # each behind what is before it in the stream
        end = np.flatnonzero(part.strip == number)
        begin = end[0] - min(scoring.EXCERPT_WARM_UP, part.tokens[end[0]])
        assert (np.diff(part.tokens[begin : end[-1] + 1]) == 1).all()


def test_the_standard_error_of_an_excerpt():
    """Of independent losses it is what it would be without strips; of the whole stream there is none."""
    rng = np.random.default_rng(0)
    part = scoring.excerpt(np.zeros(10**6, np.uint8), 10**5)
    found = scoring.standard_error(part, rng.normal(2.0, 0.5, len(part.tokens)))
    assert found == pytest.approx(0.5 / np.sqrt(10**5) * np.sqrt(0.9), rel=0.25)
    whole = scoring.excerpt(np.zeros(100, np.uint8), 0)
    assert scoring.standard_error(whole, np.zeros(100)) is None
    one = scoring.excerpt(np.zeros(100, np.uint8), 1)
    assert scoring.standard_error(one, np.zeros(len(one.tokens))) is None
