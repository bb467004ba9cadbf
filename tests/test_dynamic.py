"""Dynamic evaluation under the contract: against a plain loop, and against the model at rate 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import scoring
from lmseq.config.language_model import ModelConfig
from lmseq.contract import log_prob, scan_unroll
from lmseq.generation import sample_streams
from lmseq.models.build import build_model
from lmseq.models.dynamic import fit_rate, with_dynamic
from lmseq.models.mixture import Mixture, MixtureParams
from lmseq.rollout import k_step_log_probs
from tests.oracles import random_stream

V, N = 3, 4
STREAM = random_stream(43, vocab_size=V)
MODELS = {
    "gru": ModelConfig(model="gru", hidden_size=5),
    "attention": ModelConfig(model="attention", hidden_size=8, num_heads=2, window=6),
    "mlp": ModelConfig(model="mlp", hidden_size=5, tau=2, embedding_size=3),
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    found = build_model(MODELS[request.param], V)
    return found, found.init(jax.random.key(1))


def plainly(model, params, stream, rate, decay):
    """ln p of each token, token by token, with the parameters moved after every segment."""

    def loss(theta, start, segment):
        total, carry = 0.0, start
        for i in range(N):
            total -= log_prob(model.readout(theta, carry), segment[i : i + 1])[0]
            carry = model.update(theta, carry, segment[i : i + 1])
        return total / N

    slope_of, step = jax.jit(jax.grad(loss)), jax.jit(model.update)
    ahead = jax.jit(lambda theta, carry, x: log_prob(model.readout(theta, carry), x)[0])
    theta, carry = params, model.init_carry(params, 1)
    start, segment, found = carry, [], []
    for token in stream:
        x = jnp.asarray([token], jnp.int32)
        found.append(float(ahead(theta, carry, x)))
        carry = step(theta, carry, x)
        segment.append(token)
        if len(segment) == N:
            slope = slope_of(theta, start, jnp.asarray(segment, jnp.int32))
            theta = jax.tree.map(lambda t, g, p: t - rate * g + decay * (p - t), theta, slope, params)
            start, segment = carry, []
    return np.array(found)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_it_is_the_plain_loop(model, decay):
    expected = plainly(*model, STREAM, 0.5, decay)
    dynamic = with_dynamic(*model, N, 0.5, decay)
    for num_steps in (3 * N, 5):  # whole segments, and steps
        found = scoring.score_stream(*dynamic, STREAM, num_steps=num_steps)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    assert np.abs(expected - scoring.score_stream(*model, STREAM)).max() > 0.05  # it does something


def test_at_rate_zero_it_is_the_model(model):
    found = scoring.score_stream(*with_dynamic(*model, N, 0.0), STREAM, num_steps=2 * N)
    np.testing.assert_allclose(found, scoring.score_stream(*model, STREAM), rtol=1e-5, atol=1e-6)


def test_it_does_not_look_ahead(model):
    dynamic = with_dynamic(*model, N, 0.5)
    other = np.where(np.arange(len(STREAM)) < 21, STREAM, (STREAM + 1) % V)
    for num_steps in (N, 5):
        one, two = (scoring.score_stream(*dynamic, each, num_steps=num_steps) for each in (STREAM, other))
        np.testing.assert_array_equal(one[:21], two[:21])
        assert not np.array_equal(one[21:], two[21:])


def test_rows_learn_apart_and_segments_may_begin_apart(model):
    """Rows of a batch in different places of their segments: each as it is alone."""
    dynamic, params = with_dynamic(*model, N, 0.5)
    rows = [jnp.asarray(STREAM[i : i + 9], jnp.int32)[None] for i in (0, 7)]
    carries = [
        scan_unroll(dynamic, params, dynamic.init_carry(params, 1), row[:, :length])[0]
        for row, length in zip(rows, (2, 5), strict=True)
    ]
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *carries)
    xs, targets = jnp.concatenate(rows)[:, :8], jnp.concatenate(rows)[:, 1:]
    _, both = dynamic.token_log_probs(params, together, xs, targets)
    for i, carry in enumerate(carries):
        _, alone = dynamic.token_log_probs(params, carry, xs[i : i + 1], targets[i : i + 1])
        np.testing.assert_allclose(both[i], alone[0], rtol=1e-4, atol=1e-5)


def test_it_is_mixed_rolled_out_and_sampled(model):
    dynamic = with_dynamic(*model, N, 0.5)
    models, params = zip(dynamic, model, strict=True)
    mixture, weights = Mixture(models), MixtureParams(jnp.log(jnp.array([0.5, 0.5])), params)
    found = scoring.score_stream(mixture, weights, STREAM)
    parts = [scoring.score_stream(*each, STREAM) for each in (dynamic, model)]
    np.testing.assert_allclose(found, np.logaddexp(*parts) - np.log(2), rtol=1e-4, atol=1e-5)
    ahead = k_step_log_probs(
        jax.random.key(0), *dynamic, jnp.asarray(STREAM), max_horizon=3, num_origins=2, num_samples=4
    )
    assert np.isfinite(ahead).all()
    drawn = sample_streams(jax.random.key(0), *dynamic, jnp.asarray(STREAM[:6]), num_samples=2, num_tokens=9)
    # What is sampled has the log-probabilities of scoring it behind the prompt.
    for tokens, log_probs in zip(drawn.tokens, drawn.log_probs, strict=True):
        whole = np.concatenate([STREAM[:6], np.asarray(tokens)])
        np.testing.assert_allclose(scoring.score_stream(*dynamic, whole)[6:], log_probs, rtol=1e-3, atol=1e-4)


def test_all_strings_sum_to_one(model):
    dynamic = with_dynamic(*model, 2, 0.7)
    strings = np.stack(np.meshgrid(*[np.arange(V)] * 5, indexing="ij"), axis=-1).reshape(-1, 5)
    found = scoring.sequence_log_probs(*dynamic, jnp.asarray(strings, jnp.int32)).sum(axis=1)
    assert float(jnp.exp(found).sum()) == pytest.approx(1.0, abs=1e-5)


def test_the_rate_is_fitted(model):
    """A text that repeats itself is learned while it is read; a rate is then better than none."""
    stream = np.tile(np.array([0, 1, 2, 2, 1], np.int32), 40)
    rate = fit_rate(*model, stream, N)
    losses = {
        each: -scoring.score_stream(*with_dynamic(*model, N, each), stream).mean() for each in (0.0, rate)
    }
    assert rate > 0 and losses[rate] < losses[0.0] - 0.1


def test_counts_have_nothing_to_adapt():
    with pytest.raises(ValueError, match="counts have nothing to adapt"):
        with_dynamic(None, {"counts": jnp.zeros(3, jnp.int32)}, N, 0.1)
