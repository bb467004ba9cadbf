"""Noise of a batch that is computed in shares: on several devices, or in parts one after the other.

A draw for a whole batch gives each row its numbers. Whoever has some of the rows should draw those numbers
and no others, so that training does not depend on how a batch is shared out. `share_key` makes a key that
knows its rows; `by_rows` says which axis of a draw the rows are. Other draws from such a key are different in
every share, and are not those of the whole batch.
"""

import math
from functools import cache

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import random
from jaxtyping import Array, Int, UInt32

from lmseq.types import PRNGKey

# What a noise is of, to fold into a key beside the numbers of layers, which are all smaller.
EMBEDDING, INPUTS, WEIGHTS, CANDIDATES, NGRAMS = range(1 << 20, (1 << 20) + 5)
THREEFRY = random.threefry_prng_impl
WHOLE = "threefry2x32"  # the kind of key whose draws can be made in shares: JAX's default


def share_key(key: PRNGKey, first_row: int | Int[Array, ""], num_rows: int) -> PRNGKey:
    """The key of the rows from `first_row` on, of a batch of `num_rows` in all, whose key is `key`.

    Of keys that are not JAX's default, whose draws cannot be made in shares, another key for each share.
    """
    if str(jax.random.key_impl(key)) != WHOLE:
        return jax.random.fold_in(key, first_row)
    rows = jnp.stack([jnp.asarray(first_row, jnp.uint32), jnp.asarray(num_rows, jnp.uint32)])
    data = jnp.concatenate([jax.random.key_data(key), rows])
    return jax.random.wrap_key_data(data, impl=_share(None))


def by_rows(key: PRNGKey, axis: int) -> PRNGKey:
    """The key for draws whose rows are along that axis: a share's gives the rows' part of the whole draw.

    The key of a whole batch is returned as it is.
    """
    if jax.random.key_impl(key) != _share(None):
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_share(axis))


def of_batch(key: PRNGKey) -> PRNGKey:
    """The key for draws that all rows have in common: of a share's key, that of the whole batch.

    Any other key is returned as it is; so each share's own, where `share_key` could not know the rows.
    """
    if jax.random.key_impl(key) != _share(None):
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl=WHOLE)


@cache
def _share(axis: int | None):
    """Keys of two words of Threefry's, the first row and the rows of the whole batch."""

    def random_bits(key, bit_width, shape):
        if axis is None:
            return THREEFRY.random_bits(THREEFRY.fold_in(key[:2], key[2]), bit_width, shape)
        bits = random.threefry2x32_p.bind(key[0], key[1], *_places(key[2], key[3], axis, shape))
        if bit_width == 64:
            high, low = (word.astype(jnp.uint64) for word in bits)
            return high << 32 | low
        return (bits[0] ^ bits[1]).astype(f"uint{bit_width}")

    def split(key, shape):
        rows = jnp.broadcast_to(key[2:], (*shape, 2))
        return jnp.concatenate([THREEFRY.split(key[:2], shape), rows], axis=-1)

    return random.define_prng_impl(
        key_shape=(4,),
        seed=lambda seed: jnp.concatenate([THREEFRY.seed(seed), jnp.array([0, 1], jnp.uint32)]),
        split=split,
        random_bits=random_bits,
        fold_in=lambda key, data: jnp.concatenate([THREEFRY.fold_in(key[:2], data), key[2:]]),
        name="lmseq_share" if axis is None else f"lmseq_share_{axis}",
        tag="lss" if axis is None else f"lss{axis}",
    )


def _places(
    first_row: UInt32[Array, ""], num_rows: UInt32[Array, ""], axis: int, shape: tuple[int, ...]
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Where each number of a share stands in the whole draw, counted row-major: high and low words."""

    def along(axes: range) -> UInt32[Array, "..."]:
        strides = [math.prod(shape[each + 1 : axes.stop]) for each in axes]
        places = [lax.broadcasted_iota(jnp.uint32, shape, each) for each in axes]
        steps = (place * jnp.uint32(stride) for place, stride in zip(places, strides, strict=True))
        return sum(steps, jnp.zeros(shape, jnp.uint32))

    row = along(range(axis)) * num_rows + first_row + lax.broadcasted_iota(jnp.uint32, shape, axis)
    within = along(range(axis + 1, len(shape)))
    high, low = _product(row, math.prod(shape[axis + 1 :]))
    return high + (low + within < within).astype(jnp.uint32), low + within


def _product(x: UInt32[Array, "..."], y: int) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """High and low words of x y, by halves of words."""
    half = jnp.uint32(0xFFFF)
    x_high, x_low, y_high, y_low = x >> 16, x & half, jnp.uint32(y >> 16), jnp.uint32(y & 0xFFFF)
    middle = x_high * y_low + (x_low * y_low >> 16)
    other = x_low * y_high + (middle & half)
    return x_high * y_high + (middle >> 16) + (other >> 16), x * jnp.uint32(y)
