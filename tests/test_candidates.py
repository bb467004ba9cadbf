"""The softmax over drawn words: its formula, an unbiased normaliser, the exact softmax in the limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq.config.language_model import LanguageModelConfig, ModelConfig, check
from lmseq.config.regularisation import LossConfig
from lmseq.layers import softmax_log_probs
from lmseq.models.build import build_model
from lmseq.models.candidates import draw_candidates, sampled_log_probs
from lmseq.noise import share_key

V, H = 40, 6


def head(seed=0):
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=(3, 5, H)), rng.normal(size=(H, V)), rng.normal(size=V)
    return *(jnp.asarray(each, jnp.float32) for each in arrays), jnp.asarray(rng.integers(0, V, (3, 5)))


def test_words_are_drawn_by_rank_as_often_as_is_said():
    ids, log_expected = draw_candidates(jax.random.key(0), V, 200_000)
    sizes = np.repeat([1, 2, 4, 8, 16, 9], [1, 2, 4, 8, 16, 9])  # of the octaves of 40 ranks
    probs = 1 / (6 * sizes)
    assert np.isclose(probs.sum(), 1.0)
    np.testing.assert_allclose(np.exp(log_expected), 200_000 * probs[ids], rtol=1e-4)
    counts = np.bincount(ids, minlength=V)
    assert (np.abs(counts - 200_000 * probs) < 5 * np.sqrt(200_000 * probs)).all()


def by_loop(hidden, kernel, bias, targets, ids, log_expected):
    found = np.zeros(targets.shape)
    for place in np.ndindex(*targets.shape):
        logits, target = (
            np.asarray(hidden[place]) @ np.asarray(kernel) + np.asarray(bias),
            int(targets[place]),
        )
        total = np.exp(logits[target])
        for i, expected in zip(np.asarray(ids), np.exp(np.asarray(log_expected, np.float64)), strict=True):
            total += np.exp(logits[i]) / expected if i != target else 0.0
        found[place] = logits[target] - np.log(total)
    return found


def test_the_estimate_is_the_formula():
    whole = head()
    candidates = draw_candidates(jax.random.key(1), V, 13)
    np.testing.assert_allclose(
        sampled_log_probs(*whole, candidates), by_loop(*whole, *candidates), rtol=1e-4, atol=1e-5
    )


def test_the_normaliser_is_unbiased_and_the_loss_a_little_low():
    hidden, kernel, bias, targets = head()
    exact = softmax_log_probs(hidden, kernel, bias, targets)
    logits = hidden @ kernel + bias[None, None]
    at_target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]

    def normaliser(key):
        found = sampled_log_probs(hidden, kernel, bias, targets, draw_candidates(key, V, 20))
        return jnp.exp(at_target - found), found

    totals, found = jax.lax.map(normaliser, jax.random.split(jax.random.key(2), 4000))
    error = totals.std(axis=0) / np.sqrt(4000)
    assert (np.abs(totals.mean(axis=0) - jnp.exp(at_target - exact)) < 4.5 * error).all()
    assert (found.mean(axis=0) > exact).all()
    many = sampled_log_probs(hidden, kernel, bias, targets, draw_candidates(jax.random.key(3), V, 400_000))
    np.testing.assert_allclose(many, exact, atol=0.02)


@pytest.mark.parametrize(
    "kind", [{"model": "lstm", "embedding_size": 5, "tie_embeddings": True}, {"model": "gla"}]
)
def test_training_is_estimated_and_evaluation_exact(kind):
    config = ModelConfig(hidden_size=8, sampled_softmax=7, **kind)
    model, plain = (build_model(each, V) for each in (config, ModelConfig(hidden_size=8, **kind)))
    params = model.init(jax.random.key(0))
    xs, targets = jax.random.randint(jax.random.key(1), (2, 4, 9), 0, V)
    carry, key = model.init_carry(params, 4), jax.random.key(2)

    def losses(model, params, **training):
        return model.token_log_probs(params, carry, xs, targets, **training)[1]

    np.testing.assert_array_equal(losses(model, params), losses(plain, params))
    trained = losses(model, params, training=True, key=key)
    assert not np.allclose(trained, losses(plain, params), rtol=1e-3)
    hidden = model.module.apply({"params": params}, carry, xs, method="hidden_steps")[1]
    kernel = params["embedding"].T if model.module.tie_embeddings else params["output_kernel"]
    if "output_projection" in params:
        hidden = hidden @ params["output_projection"]
    expected = by_loop(hidden, kernel, params["output_bias"], targets, *draw_candidates(key, V, 7))
    np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=1e-4)
    # Rows that are computed apart have the same candidates.
    half = model.token_log_probs(
        params, model.init_carry(params, 2), xs[2:], targets[2:], training=True, key=share_key(key, 2, 4)
    )[1]
    np.testing.assert_allclose(half, trained[2:], rtol=1e-4, atol=1e-5)


def test_what_does_not_go_together_is_refused():
    config = LanguageModelConfig(model=ModelConfig(sampled_softmax=10), loss=LossConfig(label_smoothing=0.1))
    with pytest.raises(ValueError, match="label_smoothing needs all words"):
        check(config)
    with pytest.raises(ValueError, match="sampled_softmax=5 does nothing here"):
        check(LanguageModelConfig(model=ModelConfig(model="mlp", sampled_softmax=5)))
    with pytest.raises(ValueError, match="below the 40 symbols"):
        build_model(ModelConfig(sampled_softmax=40), V)
    with pytest.raises(ValueError, match="sampled_softmax"):
        check(LanguageModelConfig(model=ModelConfig(sampled_softmax=-1)))
