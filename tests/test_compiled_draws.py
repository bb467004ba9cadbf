"""Compiled draws: rounds of draws from tables of counts, the words of XLA's; draws from the likeliest tokens,
those of the definition; and arrays in which nothing fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq.recurrence import library
from lmseq.sampling import FEW, Decoding, draw_truncated
from tests.test_ngram_draws import carries_after, made
from tests.test_sampling import draws_are_those_of_the_definition

# One row, all rows in each round, the first ones that wait; and what is left out.
CASES = [
    ("unigrams", 1, ()),
    ("order 2, <unk> is a word's too", 30, (1, 3)),
    ("order 3, no end of lines", 150, (0,)),
    ("order 5, unknown words are symbol 0", 150, ()),
    ("no distribution", 40, ()),
]


@pytest.fixture(autouse=True)
def one_device(compiled_loops, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def rows_of(model, params, batch_size: int):
    """So many histories, one after the other, and from the first again."""
    carry = carries_after(model, params)
    return jnp.tile(carry, (-(-batch_size // len(carry)), 1))[:batch_size]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_rounds_draw_the_same_words(case, monkeypatch):
    name, batch_size, never = case
    model, params = made(name)
    tables, rows, key = model.prepare_draws(params), rows_of(model, params, batch_size), jax.random.key(5)
    lowered = jax.jit(lambda *given: model.draw(params, tables, *given, never)).lower(rows, key)
    assert "lmseq_draw_round" in lowered.as_text()
    monkeypatch.setattr(library, "suits", lambda *_, **__: False)
    expected = jax.jit(lambda *given: model.draw(params, tables, *given, never))(rows, key)
    for one, other in zip(lowered.compile()(rows, key), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def foreign(seed: int):
    """Arguments of a round whose numbers have nothing to do with each other, and what is never drawn."""
    rng = np.random.default_rng(seed)
    num_rows, num_orders = rng.integers(1, 40), rng.integers(1, 6)
    num_proposals = rng.choice([num_rows, min(num_rows, 4)])

    def numbers(*shape):
        spread = rng.choice([3, 50, 2**31])
        return jnp.asarray(rng.integers(-spread, spread, shape), jnp.int32)

    levels, contexts = (num_rows, num_orders), (num_rows, num_orders - 1)
    bounds = jnp.asarray(rng.choice([0.0, 1.0, np.nan, np.inf, -1.0], levels), jnp.float32)
    chances = [
        jax.lax.bitcast_convert_type(numbers(*shape), jnp.uint32)
        for shape in ((num_proposals, 2), levels, levels)
    ]
    entries = [numbers(rng.integers(2, 20)) for _ in range(2 * num_orders)]
    others = numbers(*levels), numbers(*levels), numbers(*contexts), numbers(num_rows), numbers(*contexts)
    cumulative = jax.lax.bitcast_convert_type(numbers(rng.integers(1, 30)), jnp.uint32)
    arrays = chances[0], bounds, *chances[1:], *others, cumulative, numbers(rng.integers(1, 9)), *entries
    return arrays, np.array([-1, 2], np.int64)


def a_round(arrays, never):
    shapes = [jax.ShapeDtypeStruct(arrays[place].shape, jnp.int32) for place in (7, 8)]
    return jax.block_until_ready(library.call("draw_round", shapes, *arrays, never=never))


def test_tables_in_which_nothing_fits_end_no_process():
    for seed in range(40):
        arrays, never = foreign(seed)
        drawn, _ = a_round(arrays, never)
        kept = np.asarray(arrays[7]) >= 0
        np.testing.assert_array_equal(np.asarray(drawn)[kept], np.asarray(arrays[7])[kept])


@pytest.mark.parametrize("place", [0, 1, 2, 4, 6, 8, -1])
def test_arrays_of_other_shapes_are_refused(place):
    arrays, never = foreign(0)
    arrays = list(arrays)
    arrays[place] = jnp.zeros((1, 1), arrays[place].dtype) if place >= 0 else jnp.zeros(0, jnp.int32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="expected levels"):
        a_round(arrays, never)


@pytest.mark.parametrize("seed", range(20))
def test_draws_from_the_likeliest_are_those_of_the_definition(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(library, "num_threads", lambda: seed % 3 + 1)
    shape = int(rng.choice([1, 9, 50])), int(rng.choice([5, 65, 640, 10_007]))
    levels, temperature = int(rng.choice([3, 40, 10**6])), float(rng.choice([0.4, 1.0, 3.0]))
    top_k = min(int(rng.choice([1, 2, 7, 40, FEW])), shape[1] - 1)
    top_p = float(rng.choice([1e-30, 0.05, 0.5, 0.9, 1.0]))
    draws_are_those_of_the_definition(rng, shape, levels, Decoding(temperature, top_k, top_p))


def test_they_are_compiled_where_few_are_kept():
    given = jnp.zeros((2, 1)), jnp.zeros((2, 300))
    for top_k, is_compiled in ((0, False), (1, True), (FEW, True), (FEW + 1, False), (300, False)):
        draw = jax.jit(lambda *given, k=top_k: draw_truncated(*given, Decoding(1.5, k, 0.9)))
        assert ("lmseq_draw_likeliest" in draw.lower(*given).as_text()) == is_compiled


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_rows_that_are_no_distribution_have_no_token(value):
    """All of a row, or one place of many where that is not just impossible."""
    log_probs = jnp.full((6, 3000), value).at[1:].set(-1e-3 * jnp.arange(3000))
    if value != -np.inf:
        log_probs = log_probs.at[jnp.arange(2, 6), jnp.array([0, 100, 299, 2999])].set(value)
    drawn = draw_truncated(jnp.full((6, 1), 0.5), log_probs, Decoding(top_k=3)).tolist()
    assert drawn == [3000, 1] + ([1] * 4 if value == -np.inf else [3000] * 4)


def test_numbers_and_tokens_are_one_a_row():
    limits = {"top_k": 3, "top_p": np.float32(1.0), "temperature": np.float32(1.0)}
    for rows, top_k in ((2, 3), (3, 0), (3, 301)):
        with pytest.raises(jax.errors.JaxRuntimeError, match="expected a number"):
            tokens = jax.ShapeDtypeStruct((3,), jnp.int32)
            arrays = jnp.zeros((rows, 1)), jnp.zeros((3, 300))
            jax.block_until_ready(
                library.call("draw_likeliest", [tokens], *arrays, **limits | {"top_k": top_k})
            )
