"""Strips read in parallel chain into the sequential pass, whatever they are guessed to begin with."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import scoring, strips
from tests.oracles import Counter, chain_params, random_stream, small


@pytest.mark.parametrize("kind", ["lstm, two layers", "mlp", "mingru"])
def test_strips_begin_with_the_carry_of_the_sequential_pass(kind):
    model, params = small(kind)
    tokens, starts = jnp.asarray(random_stream(60)), jnp.arange(5) * 11
    carries = jax.jit(strips.strip_carries, static_argnums=(0, 4))(model, params, tokens, starts, 11)

    @jax.jit
    def all_carries(carry):
        """Before each token of the stream."""
        return jax.lax.scan(lambda carry, x: (model.update(params, carry, x[None]), carry), carry, tokens)[1]

    expected = jax.tree.map(lambda leaf: leaf[starts, 0], all_carries(model.init_carry(params, 1)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), carries, expected)


@pytest.mark.parametrize("passes", [1, 3])
def test_where_passes_do_not_suffice_strips_are_read_one_by_one(monkeypatch, passes):
    """Of a model that never forgets, more strips than passes, and windows of which the last is cut."""
    monkeypatch.setattr(strips, "MOST_PASSES", passes)
    monkeypatch.setattr(strips, "WARM_UP_TOKENS", 1)
    monkeypatch.setattr(strips, "STRIP_WINDOW", 4)
    model = Counter(5)
    params, tokens, starts = model.init(jax.random.key(1)), random_stream(80, 3, 5), jnp.arange(7) * 11
    carries = strips.strip_carries(model, params, jnp.asarray(tokens), starts, 11)
    assert carries.tolist() == [int(tokens[:start].sum()) % 5 for start in starts]
    net, weights = small("lstm")
    tokens = random_stream(91, seed=4)
    expected = scoring.score_stream(net, weights, tokens, num_steps=90, batch_size=1)
    jax.clear_caches()  # of programs with the usual number of passes
    found = scoring.score_stream(net, weights, tokens, num_steps=4, batch_size=7)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    jax.clear_caches()


def test_the_guess_is_checked_not_trusted(monkeypatch):
    """With a warm-up of one token the first guess is wrong, and the score is not."""
    model, params = small("lstm")
    tokens = random_stream(90, seed=4)
    expected = scoring.score_stream(model, params, tokens, num_steps=90, batch_size=1)
    monkeypatch.setattr(strips, "WARM_UP_TOKENS", 1)
    log_probs = scoring.score_stream(model, params, tokens, num_steps=5, batch_size=6)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=2e-5)


def test_impossible_tokens_of_a_model_that_never_forgets():
    """Minus infinity in several strips at once neither hides a difference nor turns into NaN."""
    model = Counter(3)
    params = chain_params(np.full(3, 1 / 3), np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.0, 0.4, 0.6]]))
    tokens = random_stream(83, seed=2)
    expected = np.asarray(scoring.score(model, params, tokens))
    assert np.isneginf(expected).sum() > 5 and not np.isnan(expected).any()
    np.testing.assert_array_equal(
        scoring.score_stream(model, params, tokens, num_steps=4, batch_size=7), expected
    )


def test_strips_of_a_model_that_never_forgets():
    model = Counter(5)
    params, tokens, starts = model.init(jax.random.key(1)), random_stream(80, 3, 5), jnp.arange(7) * 11
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
