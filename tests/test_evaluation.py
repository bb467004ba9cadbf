"""A stream has one score, however it is cut: the plain sequential pass."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import scoring, strips
from lmseq.ngram import smoothing
from tests.oracles import ALL, Counter, MarkovChain, chain_params, small


def stream(length: int, seed: int = 0, vocab_size: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(vocab_size, size=length).astype(np.int32)


@pytest.mark.parametrize("kind", ALL)
def test_a_cut_stream_scores_as_an_uncut_one(kind):
    model, params = small(kind)
    tokens = stream(101)
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
    tokens = stream(length, seed, 5)
    expected = np.asarray(scoring.score(model, params, tokens))
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
    assert np.isnan(scoring.score_stream(model, broken, stream(50), num_steps=4, batch_size=4)).all()


@pytest.mark.parametrize("kind", ["lstm, two layers", "mlp", "mingru"])
def test_strips_begin_with_the_carry_of_the_sequential_pass(kind):
    model, params = small(kind)
    tokens, starts = jnp.asarray(stream(60)), jnp.arange(5) * 11
    carries = jax.jit(strips.strip_carries, static_argnums=(0, 4))(model, params, tokens, starts, 11)

    @jax.jit
    def all_carries(carry):
        """Before each token of the stream."""
        return jax.lax.scan(lambda carry, x: (model.update(params, carry, x[None]), carry), carry, tokens)[1]

    expected = jax.tree.map(lambda leaf: leaf[starts, 0], all_carries(model.init_carry(params, 1)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), carries, expected)


def test_the_guess_is_checked_not_trusted(monkeypatch):
    """With a warm-up of one token the first guess is wrong, and the score is not."""
    model, params = small("lstm")
    tokens = stream(90, seed=4)
    expected = scoring.score_stream(model, params, tokens, num_steps=90, batch_size=1)
    monkeypatch.setattr(strips, "WARM_UP_TOKENS", 1)
    log_probs = scoring.score_stream(model, params, tokens, num_steps=5, batch_size=6)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=2e-5)


def test_an_empty_stream_is_an_error():
    model, params = small("chain")
    with pytest.raises(ValueError, match="at least one token"):
        scoring.score_stream(model, params, stream(0))


def test_unigram_probabilities():
    log_probs = smoothing.unigram_log_probs(np.array([0, 0, 0, 2]), 4)
    np.testing.assert_allclose(np.exp(log_probs), [4 / 8, 1 / 8, 2 / 8, 1 / 8], rtol=1e-14)


def test_impossible_tokens_of_a_model_that_never_forgets():
    """Minus infinity in several strips at once neither hides a difference nor turns into NaN."""
    model = Counter(3)
    params = chain_params(np.full(3, 1 / 3), np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.4, 0.6]]))
    tokens = stream(83, seed=2)
    expected = np.asarray(scoring.score(model, params, tokens))
    assert np.isneginf(expected).sum() > 5 and not np.isnan(expected).any()
    np.testing.assert_array_equal(
        scoring.score_stream(model, params, tokens, num_steps=4, batch_size=7), expected
    )


def test_strips_of_a_model_that_never_forgets():
    model = Counter(5)
    params, tokens, starts = model.init(jax.random.key(1)), stream(80, 3, 5), jnp.arange(7) * 11
    carries = strips.strip_carries(model, params, jnp.asarray(tokens), starts, 11)
    assert carries.tolist() == [int(tokens[:start].sum()) % 5 for start in starts]


@dataclass(frozen=True)
class LateParity(Counter):
    """Uniform, but after token 2 the next token tells whether the number of 1s so far is odd."""

    dtype: type = jnp.int32

    def init_carry(self, params, batch_size: int):
        return jnp.zeros((batch_size, 2), self.dtype)

    def update(self, params, carry, x):
        return jnp.stack([(carry[:, 0] + (x == 1)) % 2, x.astype(self.dtype)], axis=1)

    def readout(self, params, carry):
        one = jnp.where(carry[:, 0] == 1, 0.9, 0.1)
        asked = jnp.stack([(1 - one) / 2, one, (1 - one) / 2], axis=1)
        return jnp.log(jnp.where(carry[:, 1:] == 2, asked, 1 / 3))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
@pytest.mark.parametrize("length", [81, 4000])
def test_what_matters_only_much_later_is_not_lost(dtype, length):
    """One 1 in the first strip, asked for in the last: the passes between change no log-probability."""
    model, tokens = LateParity(3, dtype), np.zeros(length, np.int32)
    tokens[3], tokens[-6] = 1, 2
    expected = np.asarray(scoring.score(model, {}, tokens))
    log_probs = scoring.score_stream(model, {}, tokens, num_steps=10, batch_size=8)
    np.testing.assert_array_equal(log_probs, expected)
