"""Attention by the compiled loops of `lmseq/recurrence/cpp/attention.cc`, where they are loaded.

They equal `attend` in float32, keep no scores, and pass over what no query sees: of T tokens with a window of
W their memory is O(T + W) instead of O(T W) (Dao et al. 2022). They have a derivative, but that has none.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from lmseq.mixers.attention import THETA, Cache, append, attend, read_in_blocks
from lmseq.recurrence import library
from lmseq.recurrence.unrolled import Backend, check_backend


def attend_by(
    backend: Backend, cache: Cache, queries: Array, keys: Array, values: Array
) -> tuple[Cache, Array]:
    """`attend` in the fastest form that equals it.

    backend: scan, XLA's; native, the compiled loops, which are for float32 on a CPU; auto (and cudnn, which
    has none), those where they are loaded, what is traced is one device's program, and there is more than one
    token to attend. A program for anything but a CPU has XLA's in their place. Raises ValueError for loops
    that are not loaded, and for what they do not take.
    """
    arrays = (*cache[:2], queries, keys, values)
    if backend == "native":
        check_backend(backend, "float32")
        _check(arrays)
    elif backend != "scan" and queries.shape[1] > 1 and jax.default_backend() == "cpu":
        backend = "native" if library.suits("float32", *arrays) else "scan"
    if backend != "native":
        return attend(cache, queries, keys, values)
    return append(cache, keys, values), _read(cache, queries, keys, values)


def _check(arrays: tuple[Array, ...]) -> None:
    _, _, queries, keys, _ = arrays
    if any(array.dtype != jnp.float32 for array in arrays):
        found = ", ".join(sorted({str(array.dtype) for array in arrays}))
        raise ValueError(f"the compiled loops of attention are for float32, got {found}: choose backend scan")
    if queries.shape[2] % keys.shape[2] or queries.shape[3] % 2:
        raise ValueError(
            f"expected heads of keys that divide those of queries, and an even number of features, got "
            f"{keys.shape[2]}, {queries.shape[2]} and {queries.shape[3]}"
        )


@jax.custom_vjp
def _read(cache: Cache, queries: Array, keys: Array, values: Array) -> Array:
    return _forward(cache, queries, keys, values)[0]


def _forward(cache, queries, keys, values):
    by_head = (*queries.shape[::2], queries.shape[1])  # (B, N, T)

    def blocks(*arrays):
        return read_in_blocks(*arrays), jnp.zeros(by_head, jnp.float32)

    def compiled(cache, *new):
        return tuple(_call("forward", [queries.shape, by_head], *new, *cache))

    read, normalizers = lax.platform_dependent(cache, queries, keys, values, cpu=compiled, default=blocks)
    return read, (cache, queries, keys, values, read, normalizers)


def _backward(residuals, d_read):
    cache, *new = residuals[:4]

    def blocks(cache, queries, keys, values, read, normalizers, d_read):
        def of_floats(queries, keys, values, old_keys, old_values):
            return read_in_blocks(Cache(old_keys, old_values, cache.filled), queries, keys, values)

        return jax.vjp(of_floats, queries, keys, values, cache.keys, cache.values)[1](d_read)

    def compiled(cache, queries, keys, values, *rest):
        shapes = [array.shape for array in (*new, *cache[:2])]
        return tuple(_call("backward", shapes, queries, keys, values, *cache, *rest))

    *d_new, d_keys, d_values = lax.platform_dependent(*residuals, d_read, cpu=compiled, default=blocks)
    no_slope = np.zeros(cache.filled.shape, jax.dtypes.float0)
    return Cache(d_keys, d_values, no_slope), *d_new


_read.defvjp(_forward, _backward)


def _call(way: str, shapes: list[tuple[int, ...]], *arrays: Array) -> list[Array]:
    return library.call(f"attention_{way}", shapes, *arrays, theta=np.float64(THETA))
