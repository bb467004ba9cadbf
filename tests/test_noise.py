"""Rows that are drawn in shares are those of the whole batch's draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import noise
from lmseq.noise import by_rows, share_key

DRAWS = {
    "bernoulli": lambda key, shape: jax.random.bernoulli(key, 0.7, shape),
    "normal": jax.random.normal,
    "uniform": jax.random.uniform,
}


def shares(draw, key, whole, axis, count, change=lambda key: key):
    """The draw of a whole shape, made by so many shares of its rows."""
    size = whole[axis] // count
    shape = (*whole[:axis], size, *whole[axis + 1 :])
    keys = [change(share_key(key, first, whole[axis])) for first in range(0, whole[axis], size)]
    return [draw(by_rows(each, axis), shape) for each in keys]


@settings(max_examples=10)
@given(
    st.sampled_from(sorted(DRAWS)),
    st.lists(st.integers(1, 3), min_size=0, max_size=2),
    st.lists(st.integers(1, 3), min_size=0, max_size=2),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 99),
)
def test_the_shares_of_a_draw_make_the_whole(name, before, after, count, seed):
    whole, axis, key = (*before, 4, *after), len(before), jax.random.key(seed)
    found = jnp.concatenate(shares(DRAWS[name], key, whole, axis, count), axis=axis)
    np.testing.assert_array_equal(found, DRAWS[name](key, whole))


def test_keys_are_split_and_folded_as_those_of_the_whole():
    def change(key):
        return jax.random.split(jax.random.fold_in(key, 3), 2)[1]

    key, draw = jax.random.key(1), DRAWS["uniform"]
    found = jnp.concatenate(shares(draw, key, (3, 4, 2), 1, 2, change), axis=1)
    np.testing.assert_array_equal(found, draw(change(key), (3, 4, 2)))


def test_what_is_not_drawn_by_rows_differs_in_every_share():
    key = jax.random.key(0)
    draws = [jax.random.uniform(share_key(key, first, 4), (5,)) for first in (0, 2)]
    draws.append(jax.random.uniform(key, (5,)))
    assert len({tuple(np.asarray(draw)) for draw in draws}) == 3


def test_what_all_rows_share_is_the_same_in_every_share():
    def draw(key):
        return jax.random.uniform(noise.of_batch(jax.random.fold_in(key, 3)), (5,))

    key = jax.random.key(0)
    for first in (0, 2):
        np.testing.assert_array_equal(draw(share_key(key, first, 4)), draw(key))
    other = jax.random.key(0, impl="rbg")
    assert noise.of_batch(key) is key and noise.of_batch(other) is other


def test_a_key_of_a_whole_batch_is_left_alone():
    key = jax.random.key(0)
    assert by_rows(key, 1) is key


def test_keys_of_another_kind_differ_in_every_share():
    key = jax.random.key(0, impl="rbg")
    first, second = (by_rows(share_key(key, row, 4), 0) for row in (0, 2))
    assert jax.random.key_impl(first) == jax.random.key_impl(key)
    assert not np.array_equal(jax.random.uniform(first, (3,)), jax.random.uniform(second, (3,)))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_products_of_two_words(x, y):
    high, low = noise._product(jnp.full((1,), x, jnp.uint32), y)
    assert (int(high[0]) << 32) + int(low[0]) == x * y


@pytest.mark.parametrize(("first", "row"), [(0, 1), (2**20 - 1, 0)])
def test_places_beyond_a_word(first, row):
    """Of a draw of 2^20 rows of 2^13 numbers, where the count passes 2^32."""
    rows, shape = jnp.array([first, 2**20], jnp.uint32), (1, 2, 2**13)
    high, low = noise._places(rows[0], rows[1], 1, shape)
    place = (first + row) * 2**13 + 5
    assert (int(high[0, row, 5]) << 32) + int(low[0, row, 5]) == place
