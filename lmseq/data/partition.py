"""Partitions of a token stream: which windows make which batch.

A plan says where windows start, never what is in them; the tokens stay on the device and
`take_batch` gathers them there. Offsets and order are a function of (seed, epoch) alone.

    stream        d | n tokens | n tokens | n tokens | n tokens | rest
    random          |  start 0 |  start 1 |  start 2 |  start 3 |        shuffled, B a batch
    sequential    d | strip 0: n, n, n, rest | strip 1: n, n, n, rest |  batch k: k-th n of each strip
    random lengths  | strip 0: n, m, n, rest | strip 1: n, m, n, rest |  batch k: k-th window of each
    scoring         | strip 0: n, n, n, n    | strip 1: n, n, rest    |  no offset, nothing left out

A window of n inputs has n targets, the inputs shifted by one, so it reads n + 1 tokens.

An epoch of a LONG stream is never held: its batches are computed where they are asked for, and the order of
random windows is a permutation by formula.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lmseq.data.permutation import ROUNDS, permute
from lmseq.types import Batch, Stream

PartitionKind = Literal["random", "sequential"]
LONG = 1 << 26  # more tokens, 256 MiB of int32 on a device, stay on the host; so do the plans of their epochs


class Plan(NamedTuple):
    """Batches to come: row b of batch k has its first input at starts[k, b].

    lengths[k, b] in [0, n] is how many of its n targets count (a last window may be short, a last
    batch may lack rows); resets[k] says that batch k begins from the initial carry.
    """

    starts: Int[np.ndarray, "steps batch"] | Int[Array, "steps batch"]
    lengths: Int[np.ndarray, "steps batch"] | Int[Array, "steps batch"]
    resets: Bool[np.ndarray, "steps"] | Bool[Array, "steps"]

    @property
    def num_batches(self) -> int:
        """How many there are."""
        return len(self.resets)

    def rows(self, first: int, stop: int) -> "Plan":
        """The batches first ... stop - 1."""
        return Plan(*(leaf[first:stop] for leaf in self))


@dataclass(frozen=True)
class LongEpoch:
    """The epoch of `epoch_plan`, of a stream too long for a plan; a function of (seed, epoch) as well."""

    kind: PartitionKind
    num_tokens: int
    num_steps: int
    batch_size: int
    seed: int
    epoch: int

    @property
    def num_batches(self) -> int:
        """How many there are."""
        _, offset = _offset(self.num_steps, self.seed, self.epoch)
        if self.kind == "random":
            return -(-self._num_windows(offset) // self.batch_size)
        return -(-((self.num_tokens - offset - 1) // self.batch_size) // self.num_steps)

    def rows(self, first: int, stop: int) -> Plan:
        """The batches first ... stop - 1."""
        rng, offset = _offset(self.num_steps, self.seed, self.epoch)
        if self.kind == "sequential":
            strip_length = (self.num_tokens - offset - 1) // self.batch_size
            cuts = self.num_steps * np.arange(first, stop)
            last = self.num_tokens - 1
            return _strips(offset, strip_length, last, self.num_steps, self.batch_size, cuts)
        keys = rng.integers(2**64, size=ROUNDS, dtype=np.uint64)
        places, num_windows = (
            np.arange(first * self.batch_size, stop * self.batch_size),
            self._num_windows(offset),
        )
        order = permute(places[places < num_windows], num_windows, keys)
        return _windows(offset + self.num_steps * order, self.num_tokens, self.num_steps, self.batch_size)

    def _num_windows(self, offset: int) -> int:
        return (self.num_tokens - offset - 1) // self.num_steps


class RandomEpoch(NamedTuple):
    """An epoch of `random_windows`: where each batch begins in a strip, and how many inputs it has."""

    start: int
    strip_length: int
    last_target: int
    batch_size: int
    cuts: Int[np.ndarray, "steps"]
    lengths: Int[np.ndarray, "steps"]

    @property
    def num_batches(self) -> int:
        """How many there are."""
        return len(self.cuts)

    def rows(self, first: int, stop: int) -> Plan:
        """The batches first ... stop - 1."""
        cuts, lengths = self.cuts[first:stop], self.lengths[first:stop, None]
        return _strips(self.start, self.strip_length, self.last_target, lengths, self.batch_size, cuts)


Epoch = Plan | LongEpoch | RandomEpoch


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
    return _windows(starts, num_tokens, num_steps, batch_size)


def _index_type(num_tokens: int) -> np.dtype:
    """What places in a stream are written in."""
    return np.dtype(np.int32 if num_tokens <= 2**31 else np.int64)


def _windows(starts: np.ndarray, num_tokens: int, num_steps: int, batch_size: int) -> Plan:
    """Whole windows in the order of their starts, B a batch; rows that the last batch lacks have length 0."""
    num_batches = -(-len(starts) // batch_size)
    lengths = np.full(len(starts), num_steps)
    missing = (0, num_batches * batch_size - len(starts))
    shape = (num_batches, batch_size)
    return Plan(
        np.pad(starts, missing).reshape(shape).astype(_index_type(num_tokens)),
        np.pad(lengths, missing).reshape(shape).astype(np.int32),
        np.ones(num_batches, bool),
    )


def _strips(
    start: int,
    strip_length: int,
    last_target: int,
    num_steps: int | Int[np.ndarray, "steps 1"],
    batch_size: int,
    cuts: np.ndarray | None = None,
) -> Plan:
    """B strips of `strip_length` targets each from `start`, cut every n; none counts past last_target.

    cuts: only the batches that begin there, of a strip; each of n of its own where n are given for all.
    """
    cuts = np.arange(0, strip_length, num_steps) if cuts is None else cuts
    starts = start + cuts[:, None] + strip_length * np.arange(batch_size)[None]
    ends = np.minimum(start + strip_length * (1 + np.arange(batch_size)), last_target)
    lengths = np.clip(ends[None] - starts, 0, num_steps)
    return Plan(starts.astype(_index_type(last_target + 1)), lengths.astype(np.int32), cuts == 0)


def sequential_partitioning(num_tokens: int, num_steps: int, batch_size: int, seed: int, epoch: int) -> Plan:
    """B strips of L = floor((T - d - 1) / B) inputs; batch k takes the k-th n of every strip.

    Row r of batch k + 1 continues row r of batch k, so only the first batch resets the carry. The
    last batch has L mod n targets a row. At most d + B tokens of the T are not used as inputs.
    """
    check_stream(num_tokens, num_steps, batch_size, "sequential")
    _, offset = _offset(num_steps, seed, epoch)
    strip_length = (num_tokens - offset - 1) // batch_size
    return _strips(offset, strip_length, num_tokens - 1, num_steps, batch_size)


SPREAD = 5 / 70  # standard deviation of a window's length, of num_steps, as published
HALVED = 0.05  # share of windows around half of num_steps


def _law_of_lengths(num_steps: int) -> tuple[Int[np.ndarray, "number"], Float[np.ndarray, "number"]]:
    """Lengths of random windows and their probabilities; a length may stand there twice.

    A normal distribution has, in three points at -1, 0 and 1 times sqrt(3) of its standard deviation, with
    weights 1/6, 2/3 and 1/6 (Gauss-Hermite quadrature), its mean, variance and next three moments.
    """
    nodes, weights = np.array([-1.0, 0.0, 1.0]) * 3**0.5, np.array([1.0, 4.0, 1.0]) / 6.0
    centres, shares = np.array([num_steps / 2, num_steps]), np.array([HALVED, 1.0 - HALVED])
    lengths = np.floor(centres[:, None] + SPREAD * num_steps * nodes[None] + 0.5).astype(np.int64)
    return np.maximum(lengths, 1).ravel(), (shares[:, None] * weights[None]).ravel()


def window_lengths(num_steps: int) -> tuple[int, ...]:
    """The lengths that `random_windows` has, increasing: at most six."""
    return tuple(int(length) for length in np.unique(_law_of_lengths(num_steps)[0]))


def random_windows(num_tokens: int, num_steps: int, batch_size: int, seed: int, epoch: int) -> RandomEpoch:
    """Sequential partitioning into windows of random length, one for all rows of a batch.

    Of the base num_steps with probability 0.95, else of half of it, with a normal spread (Merity et al.
    2018), which takes three values, so that few programs are compiled. As in `sequential_partitioning` each
    row continues the row before it, and each of the strips' targets counts once.
    """
    check_stream(num_tokens, num_steps, batch_size, "sequential")
    rng, offset = _offset(num_steps, seed, epoch)
    strip_length = (num_tokens - offset - 1) // batch_size
    lengths, law = _law_of_lengths(num_steps)
    drawn = rng.choice(lengths, size=-(-strip_length // int(lengths.min())), p=law)
    cuts = np.cumsum(drawn) - drawn
    number = int(np.searchsorted(cuts, strip_length))
    return RandomEpoch(offset, strip_length, num_tokens - 1, batch_size, cuts[:number], drawn[:number])


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


@dataclass(frozen=True)
class Within:
    """`sliding` over several series that lie one behind the other, of these lengths: no window is of two.

    Of one series it is `sliding`, to the bit. A series too short for a window has none.
    """

    lengths: tuple[int, ...]

    def __call__(self, num_points: int, num_steps: int, batch_size: int, seed: int, epoch: int) -> Plan:
        """The plan of one epoch; ValueError where no series has a window."""
        lengths = np.array(self.lengths)
        counts = np.maximum(lengths - num_steps, 0)
        if not counts.any():
            return sliding(int(lengths.max()), num_steps, batch_size, seed, epoch)  # says so
        plan = sliding(int(counts.sum()) + num_steps, num_steps, batch_size, seed, epoch)
        # Window w is one of the series whose windows are counted up to beyond w.
        owner = np.searchsorted(np.cumsum(counts), plan.starts, side="right")
        shift = np.cumsum(lengths) - lengths - (np.cumsum(counts) - counts)
        return plan._replace(starts=(plan.starts + shift[owner]).astype(np.int32))


def epoch_plan(
    kind: PartitionKind,
    num_tokens: int,
    num_steps: int,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    random: bool = False,
) -> Epoch:
    """The plan of one epoch of training, a function of (seed, epoch); of a LONG stream what makes it.

    random: sequential windows are those of `random_windows`.
    """
    if random:
        if kind != "sequential":
            raise ValueError(f"random_windows are for partition sequential, got partition {kind!r}")
        return random_windows(num_tokens, num_steps, batch_size, seed, epoch)
    if kind in get_args(PartitionKind) and num_tokens > LONG:
        check_stream(num_tokens, num_steps, batch_size, kind)
        return LongEpoch(kind, num_tokens, num_steps, batch_size, seed, epoch)
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
