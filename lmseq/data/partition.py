"""Partitions of a token stream: which windows make which batch.

A plan says where windows start, never what is in them; the tokens stay on the device and
`take_batch` gathers them there. Offsets and order are a function of (seed, epoch) alone.

    stream        d | n tokens | n tokens | n tokens | n tokens | rest
    random          |  start 0 |  start 1 |  start 2 |  start 3 |        shuffled, B a batch
    sequential    d | strip 0: n, n, n, rest | strip 1: n, n, n, rest |  batch k: k-th n of each strip
    scoring         | strip 0: n, n, n, n    | strip 1: n, n, rest    |  no offset, nothing left out

A window of n inputs has n targets, the inputs shifted by one, so it reads n + 1 tokens.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lmseq.types import Batch, Stream

PartitionKind = Literal["random", "sequential"]


class Plan(NamedTuple):
    """Batches to come: row b of batch k has its first input at starts[k, b].

    lengths[k, b] in [0, n] is how many of its n targets count (a last window may be short, a last
    batch may lack rows); resets[k] says that batch k begins from the initial carry.
    """

    starts: Int[np.ndarray, "steps batch"] | Int[Array, "steps batch"]
    lengths: Int[np.ndarray, "steps batch"] | Int[Array, "steps batch"]
    resets: Bool[np.ndarray, "steps"] | Bool[Array, "steps"]


def check_stream(num_tokens: int, num_steps: int, batch_size: int, kind: PartitionKind) -> None:
    """Raise ValueError unless every epoch, whatever its offset, has a window to train on."""
    if num_steps < 1 or batch_size < 1:
        raise ValueError(f"expected num_steps and batch_size of at least 1, got {num_steps}, {batch_size}")
    # The largest offset is n - 1; after it one window (random) or one target a row must remain.
    needed = num_steps + (num_steps if kind == "random" else batch_size)
    if num_tokens < needed:
        raise ValueError(
            f"expected at least {needed} tokens for {kind} windows of num_steps={num_steps} with "
            f"batch_size={batch_size}, got {num_tokens}: give a longer text or smaller windows"
        )


def _offset(num_steps: int, seed: int, epoch: int) -> tuple[np.random.Generator, int]:
    """The epoch's generator, and its offset d uniform in [0, n): the first number drawn."""
    rng = np.random.default_rng((seed, epoch))
    return rng, int(rng.integers(num_steps))


def random_sampling(num_tokens: int, num_steps: int, batch_size: int, seed: int, epoch: int) -> Plan:
    """The floor((T - d - 1) / n) windows at d, d + n, d + 2n ... in shuffled order, B a batch.

    Neighbours in a batch are not neighbours in the text, so every batch resets the carry. Rows that
    the last batch lacks have length 0. At most d + n tokens of the T are not used as inputs.
    """
    check_stream(num_tokens, num_steps, batch_size, "random")
    rng, offset = _offset(num_steps, seed, epoch)
    starts = offset + num_steps * rng.permutation((num_tokens - offset - 1) // num_steps)
    num_batches = -(-len(starts) // batch_size)
    lengths = np.full(len(starts), num_steps)
    missing = (0, num_batches * batch_size - len(starts))
    shape = (num_batches, batch_size)
    return Plan(
        np.pad(starts, missing).reshape(shape).astype(np.int32),
        np.pad(lengths, missing).reshape(shape).astype(np.int32),
        np.ones(num_batches, bool),
    )


def _strips(start: int, strip_length: int, last_target: int, num_steps: int, batch_size: int) -> Plan:
    """B strips of `strip_length` targets each from `start`, cut every n; none counts past last_target."""
    cuts = np.arange(0, strip_length, num_steps)
    starts = start + cuts[:, None] + strip_length * np.arange(batch_size)[None]
    ends = np.minimum(start + strip_length * (1 + np.arange(batch_size)), last_target)
    lengths = np.clip(ends[None] - starts, 0, num_steps)
    return Plan(starts.astype(np.int32), lengths.astype(np.int32), cuts == 0)


def sequential_partitioning(num_tokens: int, num_steps: int, batch_size: int, seed: int, epoch: int) -> Plan:
    """B strips of L = floor((T - d - 1) / B) inputs; batch k takes the k-th n of every strip.

    Row r of batch k + 1 continues row r of batch k, so only the first batch resets the carry. The
    last batch has L mod n targets a row. At most d + B tokens of the T are not used as inputs.
    """
    check_stream(num_tokens, num_steps, batch_size, "sequential")
    _, offset = _offset(num_steps, seed, epoch)
    strip_length = (num_tokens - offset - 1) // batch_size
    return _strips(offset, strip_length, num_tokens - 1, num_steps, batch_size)


def scoring(num_tokens: int, num_steps: int, batch_size: int) -> Plan:
    """Each of the T - 1 targets after the first token exactly once, in B strips of whole windows.

    Strip r + 1 continues strip r, so that strips can be chained into one stream. Raises ValueError
    where num_tokens < 2.
    """
    if num_tokens < 2 or num_steps < 1 or batch_size < 1:
        raise ValueError(
            "expected at least 2 tokens, num_steps and batch_size of at least 1, "
            f"got {num_tokens}, {num_steps}, {batch_size}"
        )
    num_windows = -(-(num_tokens - 1) // num_steps)
    strip_length = num_steps * -(-num_windows // batch_size)
    return _strips(0, strip_length, num_tokens - 1, num_steps, batch_size)


def sliding(num_points: int, num_steps: int, batch_size: int, seed: int, epoch: int) -> Plan:
    """All T - n windows of n inputs and their targets, one from every start, shuffled, B a batch.

    They overlap: for series, of which there is less than of text. What the last batch lacks is left for
    the next epoch's order, unless it is the only one. Raises ValueError where num_points <= num_steps.
    """
    if num_points <= num_steps:
        raise ValueError(
            f"expected more than {num_steps} points to train on, got {num_points}: give a longer series, or "
            "a smaller num_steps, tau or horizon"
        )
    starts = np.random.default_rng((seed, epoch)).permutation(num_points - num_steps)
    if starts.size < batch_size:
        starts = np.resize(starts, batch_size)
    shape = (starts.size // batch_size, batch_size)
    starts = starts[: shape[0] * batch_size].reshape(shape).astype(np.int32)
    return Plan(starts, np.full(shape, num_steps, np.int32), np.ones(shape[0], bool))


def epoch_plan(
    kind: PartitionKind, num_tokens: int, num_steps: int, batch_size: int, seed: int, epoch: int
) -> Plan:
    """The plan of one epoch of training, a function of (seed, epoch)."""
    match kind:
        case "random":
            return random_sampling(num_tokens, num_steps, batch_size, seed, epoch)
        case "sequential":
            return sequential_partitioning(num_tokens, num_steps, batch_size, seed, epoch)
        case _:
            raise ValueError(f"expected partition random or sequential, got {kind!r}")


def take_batch(
    tokens: Stream, starts: Int[Array, "batch"], lengths: Int[Array, "batch"], num_steps: int
) -> Batch:
    """Gather windows of n inputs and their targets from tokens (T,) on the device: (B, n) each.

    Of values (T, D) the windows are (B, n, D).

    tokens[start:]   t h e _ t i m e
    inputs           t h e _ t          n = 5
    targets            h e _ t i        inputs shifted by one
    """
    positions = starts[:, None] + jnp.arange(num_steps + 1)[None]
    # Reads past the end belong to masked steps: clipped, not wrapped, and never counted.
    window = tokens[jnp.minimum(positions, tokens.shape[0] - 1)]
    mask = jnp.arange(num_steps)[None] < lengths[:, None]
    return Batch(window[:, :-1], window[:, 1:], mask)
