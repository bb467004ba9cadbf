"""Noise of a window in training: on words, on what the layers read and give, and on recurrent weights.

What is drawn once a window comes from the window's key, whatever pieces the window is taken in and however
the batch is shared out; what is drawn by step and row, from each piece's.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.layers import drop, has_dropout, rows_of
from lmseq.models.pieces import DropoutKind
from lmseq.noise import EMBEDDING, INPUTS, WEIGHTS, of_batch
from lmseq.recurrence.cells.cell import Recurrent
from lmseq.types import PRNGKey

Rate = float | Float[Array, ""]
Read = Callable[[Int[Array, "..."], PRNGKey], Float[Array, "..."]]  # rows of tokens, of a piece's key


def any_dropout(*rates: Rate | None) -> bool:
    """Whether anything is dropped at one of the rates; None is no rate."""
    return any(rate is not None and has_dropout(rate) for rate in rates)


def drop_steps(
    x: Float[Array, "_ _ feature"], rate: Rate, key: PRNGKey | None, kind: DropoutKind, time_axis: int
) -> Float[Array, "_ _ feature"]:
    """Dropout of rows over time: a mask a step, or, variational, one mask for all steps.

    x: (B, T, D), or (T, B, D) with time_axis 0.
    """
    shape = list(x.shape)
    if kind == "variational":
        shape[time_axis] = 1
    return drop(x, rate, key, tuple(shape), batch_axis=1 - time_axis)


def drop_words(
    table: Float[Array, "vocab feature"], rate: Rate, key: PRNGKey
) -> Float[Array, "vocab feature"]:
    """An embedding whose rows are zero at a rate, the others over 1 - rate; one mask for all that read it.

    Gal and Ghahramani (2016), and Merity et al. (2018).
    """
    return drop(table, rate, of_batch(jax.random.fold_in(key, EMBEDDING)), (table.shape[0], 1))


def reader(
    table: Float[Array, "vocab feature"],
    word_rate: Rate,
    row_rate: Rate,
    kind: DropoutKind,
    key: PRNGKey,
    time_axis: int,
) -> Read:
    """What looks tokens up in a table of which words are dropped, and drops entries of the rows.

    key: that of the window.
    """
    table = drop_words(table, word_rate, key)

    def read(xs: Int[Array, "_ _"], key: PRNGKey) -> Float[Array, "_ _ feature"]:
        return drop_steps(rows_of(table, xs), row_rate, jax.random.fold_in(key, INPUTS), kind, time_axis)

    return read


def drop_weights(
    weights: Sequence[Recurrent | None], rate: Rate, key: PRNGKey | None
) -> Sequence[Recurrent | None]:
    """DropConnect on the kernels inside the loops of layers (Wan et al. 2013; Merity et al. 2018).

    U becomes U m / (1 - rate), m one mask for all rows and steps; biases stay. Without a key, or at a rate
    that is the number 0, the weights as they are. The rate is rounded down to a multiple of 2^-16, as a mask
    as large as the weights costs half as much to draw so.
    """
    if key is None or not has_dropout(rate):
        return weights
    key = of_batch(jax.random.fold_in(key, WEIGHTS))
    return [
        layer
        if layer is None or layer.kernel is None
        else layer._replace(kernel=_drop_entries(layer.kernel, rate, jax.random.fold_in(key, number)))
        for number, layer in enumerate(weights)
    ]


def _drop_entries(
    kernel: Float[Array, "hidden gates"], rate: Rate, key: PRNGKey
) -> Float[Array, "hidden gates"]:
    """Inverted dropout of each entry, of 16 random bits."""
    words = jax.random.bits(key, (-(-kernel.size // 2),), jnp.uint32)
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: kernel.size].reshape(kernel.shape)
    number = jnp.ceil((1.0 - rate) * 2.0**16)  # of the 2^16 that a half may be, those that keep an entry
    return jnp.where(halves.astype(jnp.float32) < number, kernel * (2.0**16 / number), 0.0)
