"""Attention to the last W tokens, whose keys and values are the carry.

    o_t = sum_j softmax_j(q_t k_j / sqrt(d)) v_j,   j = t - W + 1 ... t

Queries and keys are turned by their position first (rotary positions, Su et al. 2021), so that only
differences of positions matter. The carry holds keys as they are: they are turned when they are read, by
their place in the window, and a carry may grow as old as it likes. Going on from the carry with gradients
stopped is Transformer-XL's recurrence (Dai et al. 2019).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

THETA = 10_000.0
BLOCK = 128  # queries taken together: half as much is computed in vain as of blocks of a long window


class Cache(NamedTuple):
    """Keys and values of the last W tokens, oldest first, (B, W, N_kv, d); how many there are, int32 (B,)."""

    keys: Float[Array, "batch window head feature"]
    values: Float[Array, "batch window head feature"]
    filled: Int[Array, "batch"]


def empty_cache(batch_size: int, window: int, num_heads: int, width: int) -> Cache:
    """A cache of nothing: zeros, none of them filled."""
    shape = (batch_size, window, num_heads, width)
    # Two arrays: one that stands twice in a carry cannot be donated.
    return Cache(jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(batch_size, jnp.int32))


def rotary(
    rows: Float[Array, "*dims time head feature"], positions: Int[Array, "time"]
) -> Float[Array, "*dims time head feature"]:
    """Each pair of coordinates (i, i + d / 2) turned by the angle t theta^(-2 i / d), t the position."""
    half = rows.shape[-1] // 2
    frequencies = THETA ** (-jnp.arange(half, dtype=rows.dtype) / half)
    angles = positions[:, None].astype(rows.dtype) * frequencies[None]
    shape = (*rows.shape[:-1], half)
    cos, sin = (jnp.broadcast_to(turn(angles)[:, None], shape) for turn in (jnp.cos, jnp.sin))
    first, second = rows[..., :half], rows[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def append(cache: Cache, keys: Array, values: Array) -> Cache:
    """The cache after tokens with keys and values (B, T, N_kv, d): the oldest are dropped."""
    window = cache.keys.shape[1]

    def after(old: Array, new: Array) -> Array:
        return jnp.concatenate([old, new], axis=1)[:, -window:]

    filled = jnp.minimum(cache.filled + keys.shape[1], window)
    return Cache(after(cache.keys, keys), after(cache.values, values), filled)


def attend(
    cache: Cache,
    queries: Float[Array, "batch time head feature"],
    keys: Float[Array, "batch time _ feature"],
    values: Float[Array, "batch time _ feature"],
) -> tuple[Cache, Float[Array, "batch time head feature"]]:
    """The cache after T tokens, and what each of them reads from the last W, itself among them: (B, T, N, d).

    queries have N heads, keys and values N_kv, of which each serves N / N_kv (Ainslie et al. 2023). A long
    sequence is taken in blocks of at most W and BLOCK queries, each beside the keys that they can see: memory
    O(T W).
    """
    return append(cache, keys, values), read_in_blocks(cache, queries, keys, values)


def read_in_blocks(cache: Cache, queries: Array, keys: Array, values: Array) -> Array:
    """What T tokens read (B, T, N, d), as `attend` says."""
    window, length = cache.keys.shape[1], queries.shape[1]
    number = -(-length // min(window, BLOCK))
    size = -(-length // number)
    # Places behind the end are behind every query, too.
    behind = [(0, 0), (0, number * size - length), (0, 0), (0, 0)]
    blocks = jnp.pad(queries, behind).reshape(queries.shape[0], number, size, *queries.shape[2:])
    seen_keys, seen_values = (
        _beside_blocks(old, jnp.pad(new, behind), size)
        for old, new in ((cache.keys, keys), (cache.values, values))
    )
    span = seen_keys.shape[2]
    places = jnp.arange(span)
    read = read_visible(
        rotary(blocks, places[span - size :]),
        rotary(seen_keys, places),
        seen_values,
        _visible(cache, number, size, span),
    )
    return read.reshape(queries.shape[0], number * size, *queries.shape[2:])[:, :length]


def _beside_blocks(old: Array, new: Array, size: int) -> Array:
    """What each block of `size` tokens can see, (B, number, span, ...): the W before it, and itself."""
    number = new.shape[1] // size
    if number == 1:
        return jnp.concatenate([old, new], axis=1)[:, None]
    ahead = -(-old.shape[1] // size)
    before = [(0, 0), (ahead * size - old.shape[1], 0)] + [(0, 0)] * (old.ndim - 2)
    stream = jnp.concatenate([jnp.pad(old, before), new], axis=1)
    chunks = stream.reshape(old.shape[0], ahead + number, size, *old.shape[2:])
    return jnp.concatenate([chunks[:, i : i + number] for i in range(ahead + 1)], axis=2)


def _visible(cache: Cache, number: int, size: int, span: int) -> Bool[Array, "batch number size span"]:
    """Which places each query sees: those of the last W tokens that are filled."""
    window = cache.keys.shape[1]
    place, query = jnp.arange(span), span - size + jnp.arange(size)
    age = query[:, None] - place[None]
    near = (age >= 0) & (age < window)
    # The number of the token at a place, counted from the first that is not in the cache.
    token = size * jnp.arange(number)[:, None] + place[None] - (span - size)
    there = token[None] >= -cache.filled[:, None, None]
    return near[None, None] & there[:, :, None]


def read_visible(
    queries: Float[Array, "*dims size head feature"],
    keys: Float[Array, "*dims span _ feature"],
    values: Float[Array, "*dims span _ feature"],
    visible: Bool[Array, "*dims size span"],
) -> Float[Array, "*dims size head feature"]:
    """softmax(q k / sqrt(d)) v over the places that each query sees, of which there is one at least."""
    with jax.default_matmul_precision("highest"):
        return _read(queries, keys, values, visible)


def _read(queries: Array, keys: Array, values: Array, visible: Array) -> Array:
    num_heads, num_keys = queries.shape[-2], keys.shape[-2]
    queries = jnp.swapaxes(queries * queries.shape[-1] ** -0.5, -2, -3)
    keys, values = (jnp.swapaxes(rows, -2, -3) for rows in (keys, values))
    if num_keys < num_heads:
        keys, values = (jnp.repeat(rows, num_heads // num_keys, axis=-3) for rows in (keys, values))
    # Products of matrices that lie one after the other, which XLA's CPU code need not turn.
    scores = queries @ jnp.swapaxes(keys, -1, -2)
    scores = jnp.where(jnp.broadcast_to(visible[..., None, :, :], scores.shape), scores, -jnp.inf)
    return jnp.swapaxes(jax.nn.softmax(scores, axis=-1) @ values, -2, -3)
