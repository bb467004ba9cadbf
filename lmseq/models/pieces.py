"""A long window taken in pieces, whose activations are computed anew for the derivative."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from lmseq.types import Carry, Elements, PRNGKey

DropoutKind = Literal["fresh", "variational"]
Outputs = Float[Array, "..."] | tuple[Float[Array, "..."], ...]
Run = Callable[[Carry, Elements, PRNGKey | None], tuple[Carry, Outputs]]


def in_pieces(
    run: Run,
    carry: Carry,
    xs: Elements,
    piece: int,
    key: PRNGKey | None,
    dropout_kind: DropoutKind,
    time_axis: int = 1,
) -> tuple[Carry, Outputs]:
    """`run` over pieces of so many steps of xs, keeping only the carries between for the derivative.

    Gradient checkpointing (Chen et al. 2016). run: (carry, a piece, key) -> the next carry and its outputs,
    one or more, with time on the same axis. A variational mask is that of the whole window, a fresh one each
    piece's own.
    """
    number = xs.shape[time_axis] // piece
    xs = jnp.moveaxis(xs, time_axis, 0)
    whole = xs[: number * piece].reshape(number, piece, *xs.shape[1:])
    keys = _keys(key, number + 1, dropout_kind)

    def step(carry: Carry, part) -> tuple[Carry, Outputs]:
        steps, key = part
        carry, outputs = run(carry, jnp.moveaxis(steps, 0, time_axis), key)
        return carry, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, time_axis, 0), outputs)

    carry, outputs = lax.scan(jax.checkpoint(step), carry, (whole, None if keys is None else keys[:-1]))
    outputs = jax.tree.map(lambda leaf: leaf.reshape(number * piece, *leaf.shape[2:]), outputs)
    if number * piece < len(xs):
        last = xs[number * piece :], None if keys is None else keys[-1]
        carry, rest = step(carry, last)
        outputs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), outputs, rest)
    return carry, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, time_axis), outputs)


def _keys(key: PRNGKey | None, number: int, dropout_kind: DropoutKind) -> Key[Array, "number"] | None:
    """A key for each piece; one for all of them where there is one mask for all steps."""
    if key is None:
        return None
    if dropout_kind == "variational":
        return jnp.stack([key] * number)
    return jax.random.split(key, number)
