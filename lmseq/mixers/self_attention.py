"""Attention as a mixer: products into queries, keys and values, `attend`, and a product out."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lmseq.config.mixers import check_key_heads
from lmseq.layers import Precision, product
from lmseq.mixers.attention import Cache, empty_cache
from lmseq.mixers.compiled_attention import attend_by
from lmseq.mixers.mixer import Mixer, Row, Rows, Spread, check_heads, draw_kernel, in_heads, out_of_heads
from lmseq.recurrence.unrolled import Backend
from lmseq.types import Params, PRNGKey


@dataclass(frozen=True)
class SelfAttention(Mixer):
    """N heads of queries over the last W tokens (Vaswani et al. 2017), with rotary positions.

    num_key_heads: of keys and values; 0 for as many as queries. backend: of `attend_by`.
    """

    num_heads: int
    window: int
    num_key_heads: int = 0
    backend: Backend = "auto"

    @property
    def num_shared(self) -> int:
        """Heads of keys and values."""
        return self.num_key_heads or self.num_heads

    def check(self, width: int) -> None:
        """Raise ValueError unless heads divide the width, evenly, and keys' heads divide those of queries."""
        check_heads(self.num_heads, width)
        if width // self.num_heads % 2:
            raise ValueError(
                f"expected an even number of features a head, which are turned in pairs, got {width} over "
                f"{self.num_heads} heads: choose another hidden_size or num_heads"
            )
        check_key_heads(self.num_heads, self.num_key_heads)

    def init(self, key: PRNGKey, width: int, spread: Spread) -> Params:
        """Kernels of queries, keys and values side by side, and of the output."""
        inside, last = jax.random.split(key)
        both = 2 * self.num_shared * (width // self.num_heads)
        return {
            "input": draw_kernel(inside, width, width + both, spread.inside),
            "output": draw_kernel(last, width, width, spread.last),
        }

    def init_carry(self, params: Params, batch_size: int) -> Cache:
        """An empty cache of W tokens."""
        width = params["output"].shape[0]
        return empty_cache(batch_size, self.window, self.num_shared, width // self.num_heads)

    def step(self, params: Params, carry: Cache, x: Row) -> tuple[Cache, Row]:
        """One token: its key and value come into the cache, and it reads the cache."""
        carry, outputs = self.unroll(params, carry, x[:, None])
        return carry, outputs[:, 0]

    def unroll(
        self, params: Params, carry: Cache, xs: Rows, precision: Precision = "float32"
    ) -> tuple[Cache, Rows]:
        """All tokens at once."""
        width, shared = params["output"].shape[0], self.num_shared * (xs.shape[-1] // self.num_heads)
        parts = jnp.split(product(xs, params["input"], precision), [width, width + shared], axis=-1)
        numbers = (self.num_heads, self.num_shared, self.num_shared)
        queries, keys, values = (in_heads(part, number) for part, number in zip(parts, numbers, strict=True))
        carry, read = attend_by(self.backend, carry, queries, keys, values)
        return carry, product(out_of_heads(read), params["output"], precision)
