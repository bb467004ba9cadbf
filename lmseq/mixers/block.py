"""A layer of a stack: a mixer alone, or in a residual block with a perceptron behind it."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.layers import Precision, drop, product
from lmseq.mixers.mixer import Mixer, Row, Rows, Spread, draw_kernel, rms_norm
from lmseq.recurrence.activations import gelu
from lmseq.types import Carry, Params, PRNGKey

BlockKind = Literal["plain", "residual"]
FeedForward = Literal["gelu", "gated"]


@dataclass(frozen=True)
class Block:
    """plain: y = mixer(x). residual: z = x + mixer(norm(x)), then y = z + perceptron(norm(z)).

    The norm is of the root mean square. The perceptron has 4 H GELU units (Radford et al. 2019), or 8 H / 3
    units gated by SiLU (Shazeer 2020). Dropout acts on a plain layer's output, and on both branches.
    depth: layers of the stack, by which the first weights of the last product of a branch are scaled.
    """

    mixer: Mixer
    kind: BlockKind = "residual"
    feed_forward: FeedForward = "gelu"
    depth: int = 1

    def init(self, key: PRNGKey, width: int) -> Params:
        """The mixer's parameters, and two norms and the perceptron's."""
        mixing, inside, last = jax.random.split(key, 3)
        if self.kind == "plain":
            return {"mixer": self.mixer.init(mixing, width, Spread())}
        spread = Spread(0.02, 0.02 / (2 * self.depth) ** 0.5)
        units = 4 * width if self.feed_forward == "gelu" else 8 * width // 3
        columns = units if self.feed_forward == "gelu" else 2 * units
        return {
            "mixer": self.mixer.init(mixing, width, spread),
            "mixer_norm": jnp.ones(width),
            "feed_forward_norm": jnp.ones(width),
            "inside": draw_kernel(inside, width, columns, spread.inside),
            "last": draw_kernel(last, units, width, spread.last),
        }

    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """The mixer's."""
        return self.mixer.init_carry(params["mixer"], batch_size)

    def step(self, params: Params, carry: Carry, x: Row) -> tuple[Carry, Row]:
        """The next carry and the output (B, H) of one step."""
        if self.kind == "plain":
            return self.mixer.step(params["mixer"], carry, x)
        carry, mixed = self.mixer.step(params["mixer"], carry, rms_norm(x, params["mixer_norm"]))
        x = x + mixed
        return carry, x + self._perceptron(params, x, "float32")

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: Rows,
        precision: Precision = "float32",
        rate: float | Float[Array, ""] = 0.0,
        keys: tuple[PRNGKey | None, PRNGKey | None] = (None, None),
        mask_steps: int | None = None,
    ) -> tuple[Carry, Rows]:
        """The last carry and the outputs (B, T, H), with dropout at a rate where there are keys.

        mask_steps: 1 for one mask for all steps.
        """
        shape = (xs.shape[0], mask_steps or xs.shape[1], xs.shape[2])
        if self.kind == "plain":
            carry, mixed = self.mixer.unroll(params["mixer"], carry, xs, precision)
            return carry, drop(mixed, rate, keys[0], shape)
        normed = rms_norm(xs, params["mixer_norm"])
        carry, mixed = self.mixer.unroll(params["mixer"], carry, normed, precision)
        xs = xs + drop(mixed, rate, keys[0], shape)
        return carry, xs + drop(self._perceptron(params, xs, precision), rate, keys[1], shape)

    def _perceptron(self, params: Params, x: Array, precision: Precision) -> Array:
        hidden = product(rms_norm(x, params["feed_forward_norm"]), params["inside"], precision)
        if self.feed_forward == "gated":
            hidden, gate = jnp.split(hidden, 2, axis=-1)
            hidden = hidden * jax.nn.silu(gate)
        else:
            hidden = gelu(hidden)
        return product(hidden, params["last"], precision)
