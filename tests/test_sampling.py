"""From log-probabilities to tokens: against a plain NumPy rendering, and by frequency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lmseq import sampling
from lmseq.sampling import Decoding, check_decoding, choose, draw, draw_truncated, invert, truncate


def reference(probs: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """One row, token by token."""
    if temperature == 0:
        return np.eye(len(probs))[np.argmax(probs)]
    probs = probs ** (1 / temperature)
    probs /= probs.sum()
    order = sorted(range(len(probs)), key=lambda token: (-probs[token], token))
    kept = order[: top_k or None]
    total, mass, nucleus = probs[kept].sum(), 0.0, []
    for token in kept:
        if mass < top_p - 1e-12:
            nucleus.append(token)
        mass += probs[token] / total
    out = np.zeros(len(probs))
    out[nucleus] = probs[nucleus] / probs[nucleus].sum()
    return out


@settings(max_examples=60)
@given(
    weights=st.lists(st.integers(1, 6), min_size=5, max_size=5),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 5, 9]),
    top_p=st.sampled_from([0.05, 0.33, 0.77, 1.0]),
)
def test_truncation_is_the_reference(weights, temperature, top_k, top_p):
    probs = np.array(weights) / sum(weights)
    expected = reference(probs, temperature, top_k, top_p)
    found = np.exp(
        truncate(jnp.log(jnp.asarray(probs, jnp.float32))[None], Decoding(temperature, top_k, top_p))
    )
    # A mass that equals top_p up to rounding may fall on either side.
    border = np.isclose(np.cumsum(np.sort(expected)[::-1]), top_p, atol=1e-5).any() and top_p < 1
    if not border:
        np.testing.assert_allclose(found[0], expected, atol=1e-6)
    assert abs(found.sum() - 1) < 1e-5


def test_ties_go_to_the_lower_id():
    even = jnp.log(jnp.full((1, 4), 0.25))
    for decoding in (Decoding(0.0), Decoding(top_k=1), Decoding(top_p=0.2)):
        assert jnp.exp(truncate(even, decoding)).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_rows_are_truncated_by_themselves():
    rows = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (3, 7)))
    decoding = Decoding(0.7, 4, 0.8)
    whole = truncate(rows, decoding)
    np.testing.assert_array_equal(whole, jnp.concatenate([truncate(row[None], decoding) for row in rows]))


def test_draws_follow_the_probabilities():
    probs = np.array([0.4, 0.0, 0.3, 0.05, 0.0, 0.25])
    with np.errstate(divide="ignore"):
        rows = jnp.asarray(np.tile(np.log(probs), (200_000, 1)), jnp.float32)
    counts = np.bincount(draw(jax.random.key(7), rows), minlength=6)
    assert counts[1] == counts[4] == 0
    possible = probs > 0
    assert stats.chisquare(counts[possible], 200_000 * probs[possible]).pvalue > 1e-3


@pytest.mark.parametrize("token", [0, 3, 6])
def test_a_certain_token_is_always_drawn(token):
    certain = jnp.where(jnp.arange(7) == token, 0.0, -jnp.inf)
    assert set(draw(jax.random.key(0), jnp.tile(certain, (1000, 1))).tolist()) == {token}


def test_what_is_truncated_is_never_drawn():
    rows = jnp.tile(jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (50,)))[None], (50_000, 1))
    kept = truncate(rows, Decoding(1.3, 7, 0.6))
    drawn = set(draw(jax.random.key(2), kept).tolist())
    assert drawn <= set(np.flatnonzero(kept[0] > -jnp.inf).tolist()) and len(drawn) > 1


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(temperature=-0.1),
        Decoding(temperature=float("nan")),
        Decoding(temperature=float("inf")),
        Decoding(top_k=-1),
        Decoding(top_p=0.0),
        Decoding(top_p=1.0001),
        Decoding(top_p=float("nan")),
    ],
)
def test_decodings_out_of_range_are_refused(decoding):
    with pytest.raises(ValueError, match="expected"):
        check_decoding(decoding)


@settings(max_examples=60)
@given(
    logits=st.lists(st.sampled_from([-np.inf, -30.0, -2.0, -1.0, 0.0, 0.5, 3.0]), min_size=6, max_size=6),
    temperature=st.sampled_from([0.0, 0.05, 1.0, 3.0, 1e6]),
    top_k=st.integers(0, 7),
    top_p=st.floats(0.01, 1.0),
)
def test_what_was_impossible_stays_so(logits, temperature, top_k, top_p):
    logits[2] = max(logits[2], -2.0)  # at least one possible token
    row = jax.nn.log_softmax(jnp.asarray(logits)[None])
    kept = np.exp(truncate(row, Decoding(temperature, top_k, top_p)))[0]
    assert abs(kept.sum() - 1) < 1e-5
    assert not kept[np.isneginf(logits)].any()
    assert kept[np.argmax(logits)] > 0 and (kept > 0).sum() <= (top_k or 6)
    # What stays is a set of likeliest tokens.
    out = [logit for logit, prob in zip(logits, kept, strict=True) if prob == 0]
    possible = [logit for logit, prob in zip(logits, kept, strict=True) if prob > 0]
    underflow = temperature == 0.05
    assert underflow or not out or max(out) <= min(possible)


def test_rounding_never_draws_the_impossible(monkeypatch):
    """A parallel cumulative sum may step up where nothing is added; a draw is sent to each such step."""
    rng = np.random.default_rng(0)
    probs = rng.random(1000) * (rng.random(1000) < 0.5)
    with np.errstate(divide="ignore"):
        row = jnp.asarray(np.log(probs / probs.sum()), jnp.float32)
    steps = jnp.cumsum(jnp.exp(row))
    uniform = (steps / steps.max())[:, None]
    for shifted in (uniform, jnp.nextafter(uniform, 0.0)):
        shifted = jnp.clip(shifted, 0.0, 1.0 - 2.0**-23)
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, shifted=shifted: shifted)
        drawn = draw(jax.random.key(0), jnp.tile(row[None], (1000, 1)))
        assert (probs[drawn] > 0).all() and len(set(drawn.tolist())) > 400


def test_the_limits_of_the_ranges_are_allowed():
    for decoding in (Decoding(), Decoding(0.0, 0, 1.0), Decoding(100.0, 10**6, 1e-3)):
        assert check_decoding(decoding) is decoding


@pytest.mark.parametrize("decoding", [Decoding(1e-38), Decoding(1e-300), Decoding(top_p=1e-300)])
def test_tiny_values_in_range_choose_the_likeliest(decoding):
    row = jnp.log(jnp.array([[0.1, 0.2, 0.7]]))
    assert jnp.exp(truncate(row, check_decoding(decoding))).tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(0.5, 2), Decoding(top_p=0.5), Decoding(0.0)])
def test_a_token_left_out_is_chosen_only_where_there_is_nothing_else(decoding):
    log_probs = jnp.log(jnp.array([[0.9, 0.1, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    uniforms = [jnp.full((3, 1), 0.5), jnp.full((3, 1), 0.25)]
    assert choose(uniforms, log_probs, decoding, ()).tolist() == [0, 0, 2]
    assert choose(uniforms, log_probs, decoding, (0,)).tolist() == [1, 0, 2]


@settings(max_examples=30, deadline=None)
@given(
    vocab_size=st.sampled_from([5, 65, 300, 1000]),
    levels=st.sampled_from([3, 40, 10**6]),
    temperature=st.sampled_from([0.0, 0.4, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 40, 64, 128, 129, 299, 999, 5000]),
    top_p=st.sampled_from([1e-30, 0.05, 0.5, 0.9, 1.0 - 1e-6, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_draws_without_a_sort_are_those_of_the_definition(
    vocab_size, levels, temperature, top_k, top_p, seed
):
    rng = np.random.default_rng(seed)
    draws_are_those_of_the_definition(rng, (3, vocab_size), levels, Decoding(temperature, top_k, top_p))


def draws_are_those_of_the_definition(rng, shape, levels: int, decoding: Decoding) -> None:
    """Equal tokens for equal numbers: many ties, few, and none; impossible tokens; ends of k and p."""
    rows = np.round(rng.normal(size=shape) * levels / 3) * 3 / levels
    rows[rng.random(rows.shape) < 0.2] = -np.inf
    rows[:, rng.integers(shape[1])] = 1.0
    log_probs = jax.nn.log_softmax(jnp.asarray(rows, jnp.float32))
    uniform = jnp.asarray(rng.random((len(rows), 1)), jnp.float32)
    found = draw_truncated(uniform, log_probs, decoding)
    kept = truncate(log_probs, decoding)
    expected = invert(uniform, kept)
    for row in range(len(rows)):
        if found[row] == expected[row]:
            continue
        # Only where sums that differ by rounding lie on two sides of a border.
        probs = np.exp(np.asarray(kept[row], np.float64))
        inside = np.abs(np.cumsum(probs) / probs.sum() - float(uniform[row, 0])).min() < 1e-5
        order = np.sort(
            np.exp(np.asarray(truncate(log_probs, decoding._replace(top_p=1.0))[row], np.float64))
        )
        border = np.abs(np.cumsum(order[::-1])[:-1] - decoding.top_p).min(initial=1.0) < 1e-5
        edge = decoding.top_p < 1.0 and border
        assert inside or edge


@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_likeliest_of_many_symbols(k):
    """By blocks, with ties over their borders, as NumPy's stable sort has them."""
    rng = np.random.default_rng(k)
    for levels in (2, 5, 1000):
        rows = rng.integers(levels, size=(4, 10_007)).astype(np.float32)
        values, ids = sampling._likeliest(jnp.asarray(rows), k)
        order = np.argsort(-rows, axis=-1, kind="stable")[:, :k]
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_array_equal(values, np.take_along_axis(rows, order, axis=-1))
