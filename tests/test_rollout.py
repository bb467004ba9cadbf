"""k steps ahead: against the exact conditional entropies of a known chain."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import rollout, scoring
from lmseq.sampling import draw
from tests.oracles import (
    MarkovChain,
    chain_params,
    conditional_entropy,
    sample_chain,
    small,
    stationary,
)

TRANSITION = np.array([[0.85, 0.1, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
PARAMS = chain_params(stationary(TRANSITION), TRANSITION)


def test_a_known_chain_is_predicted_as_well_as_it_can_be():
    horizon, num_origins = 12, 3000
    tokens = sample_chain(np.random.default_rng(0), TRANSITION, 9_100)
    log_probs = rollout.k_step_log_probs(
        jax.random.key(0), MarkovChain(3), PARAMS, tokens,
        max_horizon=horizon, num_origins=num_origins, num_samples=64,
    )  # fmt: skip
    # For each origin the exact answer is a power of the matrix: no noise of origins is left.
    spacing = (tokens.size - horizon) // num_origins
    starts = spacing * np.arange(1, num_origins + 1)
    losses = -log_probs.mean(axis=0)
    for k in range(1, horizon + 1):
        power = np.linalg.matrix_power(TRANSITION, k)
        exact = -np.log(power[tokens[starts - 1], tokens[starts + k - 1]])
        noise = (exact + log_probs[:, k - 1]).std() / np.sqrt(num_origins)
        assert abs(losses[k - 1] - exact.mean()) < 4 * noise + 2e-3
        # And their mean is the conditional entropy, within the noise of the origins.
        spread = exact.std() / np.sqrt(num_origins)
        assert abs(losses[k - 1] - conditional_entropy(TRANSITION, k)) < 6 * spread
    pi = stationary(TRANSITION)
    assert abs(conditional_entropy(TRANSITION, 200) + pi @ np.log(pi)) < 1e-12
    assert losses[0] < losses[3] < losses[-1]


def test_one_step_ahead_is_the_ordinary_loss():
    model, params = small("gru")
    tokens = np.random.default_rng(1).integers(3, size=200).astype(np.int32)
    log_probs = rollout.k_step_log_probs(
        jax.random.key(0), model, params, tokens, max_horizon=5, num_origins=13, num_samples=3
    )
    spacing = (tokens.size - 5) // 13
    scored = scoring.score(model, params, tokens)
    np.testing.assert_allclose(log_probs[:, 0], scored[spacing * np.arange(1, 14)], atol=1e-4)
    losses = rollout.k_step_cross_entropy(
        jax.random.key(0), model, params, tokens, max_horizon=5, num_origins=13, num_samples=3
    )
    np.testing.assert_array_equal(losses, -log_probs.mean(axis=0))


def test_origins_in_blocks_draw_the_same(monkeypatch):
    model, params = small("attention")
    tokens = np.random.default_rng(2).integers(3, size=150).astype(np.int32)
    run = partial(
        rollout.k_step_log_probs, jax.random.key(0), model, params, tokens,
        max_horizon=6, num_origins=11, num_samples=4,
    )  # fmt: skip
    np.testing.assert_allclose(run(block=3), run(), rtol=1e-5, atol=1e-6)
    assert rollout.origins_at_once(model, params, 4) >= 11
    carry = model.init_carry(params, 1)
    numbers = sum(leaf.size for leaf in jax.tree.leaves((carry, model.readout(params, carry))))
    monkeypatch.setattr(rollout, "NEAR", 3 * 4 * numbers)  # tests run on a CPU
    assert rollout.origins_at_once(model, params, 4) == 3
    assert rollout.origins_at_once(model, params, 100) == 1


def test_a_continuation_draws_as_sampling_does():
    """One key a step, by the function that every sampler draws with."""
    model, params = small("gru")
    targets = jnp.asarray(np.random.default_rng(3).integers(3, size=(5, 4)))
    carry, expected = model.init_carry(params, 5), []
    for key, target in zip(jax.random.split(jax.random.key(1), 4), targets.T, strict=True):
        log_probs = model.readout(params, carry)
        expected.append(log_probs[jnp.arange(5), target])
        carry = model.update(params, carry, draw(key, log_probs))
    found = rollout.rollout_log_probs(jax.random.key(1), model, params, model.init_carry(params, 5), targets)
    np.testing.assert_allclose(found, jnp.stack(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_continuations_consume_what_was_drawn():
    """A chain that always moves on by one: k steps ahead of token i is i + k, with certainty."""
    shift = chain_params(np.full(4, 0.25), np.roll(np.eye(4), 1, axis=1))
    model, carry = MarkovChain(4), jnp.array([1, 3])
    targets = jnp.array([[2, 3, 0, 1], [0, 1, 2, 2]])
    log_probs = rollout.rollout_log_probs(jax.random.key(0), model, shift, carry, targets)
    assert log_probs.tolist() == [[0.0] * 4, [0.0] * 3 + [-np.inf]]


@pytest.mark.parametrize("sizes", [(64, 8, 4), (8, 70, 4), (0, 8, 4), (8, 8, 0)])
def test_too_short_a_text_is_an_error(sizes):
    horizon, origins, samples = sizes
    with pytest.raises(ValueError, match="num_origins"):
        rollout.k_step_cross_entropy(
            jax.random.key(0), MarkovChain(3), PARAMS, np.zeros(71, np.int32),
            max_horizon=horizon, num_origins=origins, num_samples=samples,
        )  # fmt: skip


def test_most_of_the_bias_of_few_samples_is_removed():
    rng = np.random.default_rng(0)
    probs = rng.beta(0.5, 2.0, size=(20_000, 16))  # mean 0.2, var / (2 S mean^2) = 0.036
    draws = np.log(probs)[..., None]
    plain = np.log(probs.mean(axis=1)).mean() - np.log(0.2)
    corrected = rollout.log_mean_prob(draws).mean() - np.log(0.2)
    assert plain < -0.03 and abs(corrected) < abs(plain) / 4


def test_the_mean_of_impossible_and_of_single_samples():
    log_probs = np.array([[[-np.inf, -1.0]], [[-2.0, 0.0]]])
    np.testing.assert_array_equal(rollout.log_mean_prob(log_probs), log_probs[:, 0])
    mixed = np.log(np.array([[[0.0, 0.5], [0.0, 0.5]]], np.float64), where=[[[False, True]] * 2],
                   out=np.full((1, 2, 2), -np.inf))  # fmt: skip
    np.testing.assert_allclose(rollout.log_mean_prob(mixed), [[-np.inf, np.log(0.5)]])


def test_the_correction_in_closed_form():
    """Probabilities 0.2 and 0.6: variance 0.08 and mean 0.4, so 0.08 / (2 * 2 * 0.16) = 1/8 is added."""
    two = np.log(np.array([[[0.2], [0.6]]]))
    np.testing.assert_allclose(rollout.log_mean_prob(two), [[np.log(0.4) + 0.125]], rtol=1e-12)
    same = np.log(np.full((1, 5, 1), 1e-300))  # no spread, no correction, and no underflow
    np.testing.assert_allclose(rollout.log_mean_prob(same), [[np.log(1e-300)]], rtol=1e-12)


@pytest.mark.parametrize("num_samples", [2, 5, 50])
def test_the_correction_is_largest_when_one_sample_has_all(num_samples):
    log_probs = np.full((1, num_samples, 1), -np.inf)
    log_probs[0, 0] = 0.0
    expected = -np.log(num_samples) + 0.5
    np.testing.assert_allclose(rollout.log_mean_prob(log_probs), [[expected]], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_the_oracle_of_a_symmetric_chain(k):
    """Two states that swap with probability e: after k steps, (1 - (1 - 2 e)^k) / 2."""
    swapped = (1 - (1 - 2 * 0.1) ** k) / 2
    exact = -swapped * np.log(swapped) - (1 - swapped) * np.log(1 - swapped)
    assert conditional_entropy(np.array([[0.9, 0.1], [0.1, 0.9]]), k) == pytest.approx(exact, rel=1e-12)
