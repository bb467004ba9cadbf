"""From log-probabilities to tokens: against a plain NumPy rendering, and by frequency."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lmseq.sampling import Decoding, check_decoding, draw, truncate


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
