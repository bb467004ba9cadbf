"""Dynamic evaluation by its definition; the contract's own tests are in test_models.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import generation, rollout, scoring
from lmseq.models.dynamic import Dynamic, DynamicParams, gradient_scale
from lmseq.models.mixture import Mixture, MixtureParams, with_cache
from lmseq.sampling import Decoding
from lmseq.strips import strip_carries
from tests.oracles import all_strings, random_stream, small

V = 3


def dynamic(kind: str = "gru", segment: int = 3, rate: float = 0.3, decay: float = 0.1, scale=None):
    model, params = small(kind)
    return Dynamic(model, segment), DynamicParams(params, jnp.array(rate), jnp.array(decay), scale)


def by_hand(model: Dynamic, params: DynamicParams, stream: np.ndarray) -> np.ndarray:
    """Token by token: predict, see, and after each segment one step on what its tokens were predicted by."""
    inner, theta, found = model.model, params.model, []
    update, readout = jax.jit(inner.update), jax.jit(inner.readout)
    carry = start = inner.init_carry(theta, 1)
    segment: list[int] = []

    def loss(theta, start, tokens):
        total, carry = 0.0, start
        for token in tokens:
            total -= inner.readout(theta, carry)[0, token]
            carry = inner.update(theta, carry, jnp.array([token]))
        return total / len(tokens)

    gradient = jax.jit(jax.grad(loss))
    for token in stream:
        found.append(readout(theta, carry)[0, token])
        carry = update(theta, carry, jnp.array([token]))
        segment.append(token)
        if len(segment) == model.segment:
            g = gradient(theta, start, jnp.array(segment))
            if params.scale is not None:
                g = jax.tree.map(lambda g, scale: g / scale, g, params.scale)
            theta = jax.tree.map(
                lambda now, g, trained: now - params.rate * g + params.decay * (trained - now),
                theta,
                g,
                params.model,
            )
            start, segment = carry, []
    return np.array(found)


@pytest.mark.parametrize(
    ("kind", "segment", "length"),
    [("gru", 1, 6), ("gru", 4, 13), ("lstm, two layers", 2, 5), ("mlp", 3, 8), ("gru, gla, attention", 3, 7)],
)
def test_dynamic_evaluation_by_its_definition(kind, segment, length):
    model, params = dynamic(kind, segment)
    expected = by_hand(model, params, random_stream(length))
    found = scoring.score_stream(model, params, random_stream(length), num_steps=5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 9), st.integers(2, 23), st.integers(1, 5))
def test_the_cut_into_windows_makes_no_difference(num_steps, length, segment):
    model, params = dynamic(segment=segment)
    stream = random_stream(length)
    found = scoring.score_stream(model, params, stream, num_steps=num_steps, batch_size=4)
    np.testing.assert_allclose(found, scoring.score(model, params, stream), rtol=1e-4, atol=1e-4)


def test_a_rate_of_nothing_is_the_model():
    model, params = dynamic(rate=0.0)
    expected = scoring.score_stream(model.model, params.model, random_stream(40))
    np.testing.assert_allclose(scoring.score_stream(model, params, random_stream(40)), expected, rtol=1e-5)


def test_a_new_one_is_the_model():
    model = Dynamic(small("gru")[0], 2)
    params = model.init(jax.random.key(0))
    expected = scoring.score(model.model, params.model, random_stream(9))
    np.testing.assert_allclose(scoring.score(model, params, random_stream(9)), expected, rtol=1e-5)


def test_it_learns_what_repeats():
    """A stream of one token: each segment is likelier than the one before."""
    model, params = dynamic(rate=0.5, decay=0.0)
    losses = -scoring.score(model, params, np.ones(30, np.int32)).reshape(-1, 3).mean(axis=1)
    assert np.all(np.diff(losses[1:]) < 0) and losses[-1] < 0.5 * losses[0]


def test_probabilities_of_all_strings_sum_to_one():
    """Nothing is looked up ahead: each string's probability is a product of honest predictions."""
    model, params = dynamic(segment=2)
    log_probs = scoring.sequence_log_probs(model, params, jnp.asarray(all_strings(V, 5)))
    assert np.exp(np.asarray(log_probs, np.float64).sum(axis=1)).sum() == pytest.approx(1.0, abs=1e-4)


def test_rows_learn_by_themselves():
    model, params = dynamic()
    rows = np.stack([random_stream(11, seed) for seed in range(4)])
    together = scoring.sequence_log_probs(model, params, jnp.asarray(rows))
    alone = [scoring.score(model, params, row) for row in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_a_scale_divides_each_gradient():
    inner, params = small("gru")
    scale = gradient_scale(inner, params, random_stream(50), 4, 0.01)
    model, params = dynamic(segment=4, rate=0.02, scale=scale)
    expected = by_hand(model, params, random_stream(13))
    np.testing.assert_allclose(
        scoring.score(model, params, random_stream(13)), expected, rtol=1e-4, atol=1e-4
    )


def test_the_scale_is_the_root_of_mean_squares():
    """Against gradients taken one by one; the rest that fills no segment is left out."""
    model, params = small("gru")
    stream, carry, squares = random_stream(14), model.init_carry(params, 1), []

    def loss(params, carry, tokens):
        first = model.readout(params, carry)[0, tokens[0]]
        rest = model.token_log_probs(params, carry, tokens[None, :-1], tokens[None, 1:])[1]
        return -(first + rest.sum()) / len(tokens)

    for tokens in jnp.asarray(stream[:12]).reshape(3, 4):
        squares.append(jax.tree.map(jnp.square, jax.grad(loss)(params, carry, tokens)))
        carry = model.unroll(params, carry, tokens[None])[0]
    expected = jax.tree.map(lambda *each: np.sqrt(np.mean(each, axis=0)) + 0.1, *squares)
    found = gradient_scale(model, params, stream, 4, 0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)


def test_text_shorter_than_a_segment():
    with pytest.raises(ValueError, match="at least one segment of 4, got 3"):
        gradient_scale(*small("gru"), random_stream(3), 4, 0.1)


@pytest.mark.parametrize("kind", ["alone", "mixture", "cache"])
def test_strips_are_read_in_order(kind):
    """The carries at the strips' beginnings are those of the pass from the first token."""
    model, params = made_of(kind)
    stream, starts = jnp.asarray(random_stream(40)), 6 * jnp.arange(5)
    found = jax.jit(strip_carries, static_argnums=(0, 4))(model, params, stream, starts, 6)
    unroll = jax.jit(model.unroll)
    carry = model.init_carry(params, 1)
    for strip, start in enumerate(starts):
        jax.tree.map(
            lambda a, b, strip=strip: np.testing.assert_allclose(a[strip], b[0], rtol=1e-3, atol=1e-4),
            found,
            carry,
        )
        carry = unroll(params, carry, stream[None, start : start + 6])[0]


def made_of(kind: str):
    part = dynamic()
    if kind == "alone":
        return part
    if kind == "cache":
        return with_cache(*part, 4, V, neural=False)
    models, params = zip(small("trigram"), part, strict=True)
    return Mixture(models), MixtureParams(jnp.log(jnp.array([0.4, 0.6])), params)


@pytest.mark.parametrize("kind", ["alone", "mixture", "cache"])
def test_scores_of_what_is_made_of_it(kind):
    """As one stream, whatever the strips asked for."""
    model, params = made_of(kind)
    found = scoring.score_stream(model, params, random_stream(30), num_steps=4, batch_size=5)
    np.testing.assert_allclose(found, scoring.score(model, params, random_stream(30)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["alone", "mixture"])
def test_greedy_samples(kind):
    """The prompt and what is drawn are learned from, as a loop over the contract does it."""
    model, params = made_of(kind)
    update, readout = jax.jit(model.update), jax.jit(model.readout)
    prompt, carry, expected = random_stream(8), model.init_carry(params, 1), []
    for token in prompt:
        carry = update(params, carry, jnp.array([token], jnp.int32))
    for _ in range(7):
        expected.append(int(readout(params, carry).argmax()))
        carry = update(params, carry, jnp.array(expected[-1:], jnp.int32))
    drawn = generation.generate(
        jax.random.key(0), model, params, prompt, num_tokens=7, decoding=Decoding(temperature=0.0)
    )
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("kind", ["alone", "mixture"])
def test_one_step_ahead_is_the_score(kind):
    """The first of K steps from each origin needs no draw: it is the stream's own prediction there."""
    model, params = made_of(kind)
    stream, num_origins, horizon = random_stream(32), 5, 2
    found = rollout.k_step_log_probs(
        jax.random.key(0),
        model,
        params,
        stream,
        num_origins=num_origins,
        num_samples=3,
        max_horizon=horizon,
    )
    spacing = (len(stream) - horizon) // num_origins
    expected = scoring.score(model, params, stream)[spacing * np.arange(1, num_origins + 1)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3, atol=1e-4)
