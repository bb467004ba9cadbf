"""Attention against a dense softmax over all tokens, of absolute positions and with an explicit mask."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmseq.mixers.attention import BLOCK, THETA, Cache, attend, empty_cache

B, N, WIDTH = 2, 4, 6
attend = jax.jit(attend)


def drawn(length: int, num_shared: int = N, seed: int = 0):
    """Queries, keys and values, float64 (B, T, ...)."""
    rng = np.random.default_rng(seed)
    heads = (N, num_shared, num_shared)
    return tuple(rng.normal(size=(B, length, number, WIDTH)) for number in heads)


def on_device(arrays):
    return tuple(jnp.asarray(array, jnp.float32) for array in arrays)


def turned(rows, first: int):
    """Rows (B, T, N, d) at positions first, first + 1, ...: pairs of coordinates as complex numbers."""
    half = rows.shape[-1] // 2
    angles = (first + np.arange(rows.shape[1]))[:, None] * THETA ** (-np.arange(half) / half)[None]
    pairs = (rows[..., :half] + 1j * rows[..., half:]) * np.exp(1j * angles)[None, :, None]
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def dense(queries, keys, values, window: int, first: int = 0):
    """What every token reads from the last W, itself among them: softmax over a masked (T, T)."""
    keys, values = (np.repeat(part, N // part.shape[2], axis=2) for part in (keys, values))
    scores = np.einsum("btnd,bsnd->bnts", turned(queries, first), turned(keys, first)) / WIDTH**0.5
    age = np.arange(queries.shape[1])[:, None] - np.arange(queries.shape[1])[None]
    scores = np.where((age >= 0) & (age < window), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bnts,bsnd->btnd", weights / weights.sum(axis=-1, keepdims=True), values)


def near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


# window, tokens before, tokens: below, at and above W, one block of queries and several, even and not.
CASES = [(1, 0, 5), (4, 0, 3), (4, 0, 4), (4, 2, 1), (4, 7, 4), (4, 3, 8), (4, 5, 13), (5, 9, 23), (16, 3, 6)]
CASES += [(BLOCK + 30, 9, 3 * BLOCK - 7), (2 * BLOCK, 50, BLOCK + 1)]  # and windows of more than a block


@pytest.mark.parametrize("num_shared", [4, 2, 1])
@pytest.mark.parametrize(("window", "before", "length"), CASES)
def test_it_is_a_dense_softmax_whatever_the_cut(window, before, length, num_shared):
    """Far from the first position, too: the dense one stands at 10^6."""
    whole = drawn(before + length, num_shared, seed=length)
    cache = empty_cache(B, window, num_shared, WIDTH)
    found = []
    for cut in (slice(0, before), slice(before, None)):
        if cut != slice(0, 0):
            cache, read = attend(cache, *on_device(part[:, cut] for part in whole))
            found.append(read)
    near(jnp.concatenate(found, axis=1), dense(*whole, window))
    near(jnp.concatenate(found, axis=1), dense(*whole, window, first=10**6))
    kept = min(window, before + length)
    assert (cache.filled == kept).all()
    near(cache.keys[:, -kept:], whole[1][:, -kept:])
    near(cache.values[:, -kept:], whole[2][:, -kept:])


def test_a_window_of_the_whole_is_full_attention():
    length = 11
    whole = drawn(length)
    read = attend(empty_cache(B, length, N, WIDTH), *on_device(whole))[1]
    near(read, dense(*whole, window=10**9))
    shorter = attend(empty_cache(B, length - 1, N, WIDTH), *on_device(whole))[1]
    assert np.abs(shorter[:, -1] - read[:, -1]).max() > 1e-3
    near(shorter[:, :-1], read[:, :-1])


def test_one_by_one_and_rows_that_have_seen_different_numbers_of_tokens():
    """Row 0 has a full cache, row 1 one token: its empty places are not read, whatever stands there."""
    window, length = 4, 6
    before, whole = drawn(4, seed=1), drawn(length, seed=2)
    keys, values = on_device(before[1:])
    cache = Cache(keys, values, jnp.array([4, 1]))
    at_once = attend(cache, *on_device(whole))[1]
    one_by_one, later = [], cache
    for t in range(length):
        later, read = attend(later, *on_device(part[:, t : t + 1] for part in whole))
        one_by_one.append(read[:, 0])
    near(jnp.stack(one_by_one, axis=1), at_once)
    joined = [np.concatenate(parts, axis=1) for parts in zip(before, whole, strict=True)]
    near(at_once[0], dense(*joined, window)[0, 4:])
    near(at_once[1], dense(*(part[:, 3:] for part in joined), window)[1, 1:])


def test_a_cache_that_a_million_tokens_went_through_is_exact():
    """A thousand calls of a thousand tokens: the cache says nothing of its age."""
    window, length, calls = 4, 1000, 1000

    def tokens(call):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), call), 3)
        return [jax.random.normal(key, (1, length, 1, 2)) for key in keys]

    @jax.jit
    def run():
        def step(cache, call):
            return attend(cache, *tokens(call))[0], None

        return lax.scan(step, empty_cache(1, window, 1, 2), jnp.arange(calls - 1))[0]

    cache = run()
    read = attend(cache, *tokens(calls - 1))[1]
    last_two = [
        np.concatenate(parts, axis=1) for parts in zip(*map(tokens, (calls - 2, calls - 1)), strict=True)
    ]
    scores_of = partial(dense_of_one_head, *last_two, window)
    near(read[0, :, 0], scores_of(first=length * (calls - 2))[length:])


def dense_of_one_head(queries, keys, values, window, first):
    scores = (turned(queries, first)[0, :, 0] @ turned(keys, first)[0, :, 0].T) / 2**0.5
    age = np.arange(len(scores))[:, None] - np.arange(len(scores))[None]
    weights = np.where((age >= 0) & (age < window), np.exp(scores), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)) @ values[0, :, 0]


def largest_array(length: int, window: int, attend=attend) -> int:
    """Entries of the largest array that anything on the way to outputs and gradients is made of."""

    def loss(*parts):
        return jnp.sum(attend(empty_cache(1, window, 1, 2), *parts)[1])

    part = jax.ShapeDtypeStruct((1, length, 1, 2), jnp.float32)
    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(part, part, part).as_text()
    shapes = re.findall(r"tensor<((?:\d+x)+)[fi]\d+>", program)
    return max(math.prod(int(size) for size in shape.rstrip("x").split("x")) for shape in shapes)


def test_memory_grows_with_the_tokens_times_the_window():
    for window in (16, 64):
        sizes = [largest_array(length, window) for length in (1024, 2048, 4096)]
        assert sizes[1] == 2 * sizes[0] and sizes[2] == 4 * sizes[0]
        assert sizes[0] == 1024 * 2 * window  # each token's scores: of its block, and of the window before
