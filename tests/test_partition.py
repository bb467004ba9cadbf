"""Partitions: what an epoch uses, what it leaves out, what continues what, and what a row says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.scipy.stats import chi2

from lmseq.data.partition import (
    Plan,
    check_stream,
    epoch_plan,
    random_sampling,
    random_windows,
    scoring,
    sequential_partitioning,
    take_batch,
    window_lengths,
)
from lmseq.data.tokens import build_vocab

KINDS = ("random", "sequential")
TEXT = "the time machine by h g wells"
num_steps = st.integers(1, 9)
batch_sizes = st.integers(1, 6)
seeds = st.integers(0, 2**31)
epochs = st.integers(0, 10_000)


def needed(kind: str, n: int, batch_size: int) -> int:
    """The largest offset, n - 1, one window or one input a row, and the last target."""
    return (n - 1) + (n if kind == "random" else batch_size) + 1


@st.composite
def streams(draw, kind):
    n, batch_size = draw(num_steps), draw(batch_sizes)
    return needed(kind, n, batch_size) + draw(st.integers(0, 80)), n, batch_size, draw(seeds), draw(epochs)


def inputs_of(plan: Plan) -> np.ndarray:
    """Positions of all inputs that count, in the order of the plan."""
    rows = zip(plan.starts.ravel(), plan.lengths.ravel(), strict=True)
    return np.concatenate([np.arange(start, start + length) for start, length in rows])


def offset_of(plan: Plan) -> int:
    return int(plan.starts[plan.lengths > 0].min())


def same(left: Plan, right: Plan) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


# Random sampling


@given(streams("random"))
def test_random_windows_of_an_epoch(stream):
    num_tokens, n, batch_size, _, _ = stream
    plan = random_sampling(*stream)
    d, used = offset_of(plan), inputs_of(plan)
    assert 0 <= d < n
    assert set(np.unique(plan.lengths)) <= {0, n}
    num_windows = (num_tokens - d - 1) // n
    assert (plan.lengths == n).sum() == num_windows
    assert sorted(used) == list(range(d, d + n * num_windows))  # each once: no two are the same
    assert num_tokens - used.size <= d + n
    assert used.max() + 1 < num_tokens  # its target is in the text
    # Full batches but the last, which has at least one row; nothing is carried.
    rows = (plan.lengths > 0).sum(axis=1)
    assert (rows[:-1] == batch_size).all() and 1 <= rows[-1] <= batch_size
    assert plan.resets.all()


def test_random_windows_are_shuffled():
    starts = random_sampling(401, 4, 10, seed=0, epoch=0).starts.ravel()[:99]
    steps = np.diff(starts)
    assert (steps < 0).mean() > 0.3 and (steps == 4).mean() < 0.1


# Sequential partitioning


@given(streams("sequential"))
def test_sequential_strips_of_an_epoch(stream):
    num_tokens, n, batch_size, _, _ = stream
    plan = sequential_partitioning(*stream)
    d, used = offset_of(plan), inputs_of(plan)
    assert 0 <= d < n
    assert len(np.unique(used)) == used.size
    assert num_tokens - used.size <= d + batch_size
    assert used.min() >= 0 and used.max() + 1 < num_tokens
    # Equal strips, one after the other: row r of batch k + 1 goes on where row r of batch k ended.
    strip = used.size // batch_size
    for row in range(batch_size):
        mine = inputs_of(Plan(plan.starts[:, row], plan.lengths[:, row], plan.resets))
        assert mine.tolist() == list(range(d + row * strip, d + (row + 1) * strip))
    assert np.array_equal(plan.starts[1:], plan.starts[:-1] + plan.lengths[:-1])
    assert (plan.lengths[:-1] == n).all() and (plan.lengths[-1] >= 1).all()
    assert plan.resets.tolist() == [True] + [False] * (len(plan.resets) - 1)


# Both


@pytest.mark.parametrize("kind", KINDS)
def test_offset_is_uniform(kind):
    n, num_epochs = 8, 4000
    offsets = [offset_of(epoch_plan(kind, 40, n, 2, 3, epoch)) for epoch in range(num_epochs)]
    counts = np.bincount(offsets, minlength=n)
    assert counts.size == n
    statistic = ((counts - num_epochs / n) ** 2 / (num_epochs / n)).sum()
    assert chi2.sf(statistic, n - 1) > 0.001, counts


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_plan_is_a_function_of_seed_and_epoch(kind, data):
    stream = data.draw(streams(kind))
    assert same(epoch_plan(kind, *stream), epoch_plan(kind, *stream))


@pytest.mark.parametrize("kind", KINDS)
def test_plans_differ_between_epochs_and_seeds(kind):
    # 400 offsets: a sequential plan is its offset, so two in a row are the same once in 400.
    plans = [epoch_plan(kind, 2000, 400, 2, seed, epoch) for seed in range(4) for epoch in range(4)]
    distinct = sum(not any(same(plan, other) for other in plans[:i]) for i, plan in enumerate(plans))
    assert distinct >= len(plans) - 2
    assert not same(plans[1], plans[4])  # seed 0, epoch 1 and seed 1, epoch 0


@pytest.mark.parametrize("kind", KINDS)
@given(n=num_steps, batch_size=batch_sizes)
def test_too_few_tokens(kind, n, batch_size):
    enough = needed(kind, n, batch_size)
    check_stream(enough, n, batch_size, kind)
    assert all((epoch_plan(kind, enough, n, batch_size, 0, epoch).lengths > 0).any() for epoch in range(20))
    with pytest.raises(ValueError, match=rf"at least {enough} tokens for {kind}.*got {enough - 1}"):
        epoch_plan(kind, enough - 1, n, batch_size, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "batch_size"), [(0, 1), (1, 0), (-3, 2)])
def test_sizes_below_one(kind, n, batch_size):
    with pytest.raises(ValueError, match=f"of at least 1, got {n}, {batch_size}"):
        epoch_plan(kind, 100, n, batch_size, 0, 0)
    with pytest.raises(ValueError, match=f"got 100, {n}, {batch_size}"):
        scoring(100, n, batch_size)


def test_unknown_kind():
    # ValueError, or beartype's refusal of what the Literal does not list, which is off outside tests.
    with pytest.raises(Exception, match="shuffled"):
        epoch_plan("shuffled", 100, 4, 2, 0, 0)


# Scoring


@given(num_tokens=st.integers(2, 300), n=num_steps, batch_size=batch_sizes)
def test_scoring_covers_each_target_once(num_tokens, n, batch_size):
    plan = scoring(num_tokens, n, batch_size)
    assert sorted(inputs_of(plan) + 1) == list(range(1, num_tokens))
    # Read strip by strip it is one stream: every window begins where the one before it ended.
    starts, lengths = plan.starts.T.ravel(), plan.lengths.T.ravel()
    assert starts[0] == 0 and np.array_equal(np.diff(starts), np.full(starts.size - 1, n))
    last = np.flatnonzero(lengths)[-1]
    assert (lengths[:last] == n).all() and (lengths[last + 1 :] == 0).all()
    assert plan.resets.tolist() == [True] + [False] * (len(plan.resets) - 1)


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_nothing_to_score(num_tokens):
    with pytest.raises(ValueError, match=f"at least 2 tokens.*got {num_tokens}, 4, 2"):
        scoring(num_tokens, 4, 2)


# Batches


def letters(vocab, ids, mask=None) -> str:
    return vocab.decode(np.asarray(ids if mask is None else ids[mask]))


def test_the_example_of_the_article():
    vocab = build_vocab(TEXT, level="char")
    batch = take_batch(jnp.asarray(vocab.encode(TEXT)), jnp.array([0]), jnp.array([5]), 5)
    assert letters(vocab, batch.inputs[0]) == "the t"
    assert letters(vocab, batch.targets[0]) == "he ti"
    assert batch.mask.all()


VOCAB = build_vocab(TEXT, level="char")
IDS = jnp.asarray(VOCAB.encode(TEXT))
take_five = jax.jit(lambda starts, lengths: take_batch(IDS, starts, lengths, 5))


@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 2), st.integers(0, 5)), min_size=3, max_size=3))
def test_rows_read_the_text(rows):
    """A length as the plans give it: no target lies past the end."""
    rows = [(start, min(length, len(TEXT) - 1 - start)) for start, length in rows]
    batch = take_five(*(jnp.array(column, jnp.int32) for column in zip(*rows, strict=True)))
    for b, (start, length) in enumerate(rows):
        mask = np.asarray(batch.mask[b])
        assert mask.tolist() == [t < length for t in range(5)]
        assert letters(VOCAB, np.asarray(batch.inputs[b]), mask) == TEXT[start : start + length]
        assert letters(VOCAB, np.asarray(batch.targets[b]), mask) == TEXT[start + 1 : start + 1 + length]
        # Past the end stands the last token again, never the first ones.
        padded = TEXT + TEXT[-1] * 5
        assert letters(VOCAB, batch.inputs[b]) == padded[start : start + 5]
        assert letters(VOCAB, batch.targets[b]) == padded[start + 1 : start + 6]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_spells_the_text(kind):
    """All rows of all batches, put in order of their starts, are the text without its ends."""
    plan = epoch_plan(kind, len(TEXT), 5, 2, 1, 2)
    pieces = {}
    for starts, lengths in zip(plan.starts, plan.lengths, strict=True):
        batch = take_five(jnp.asarray(starts), jnp.asarray(lengths))
        for b, start in enumerate(starts):
            piece = letters(VOCAB, np.asarray(batch.targets[b]), np.asarray(batch.mask[b]))
            if piece:
                pieces[int(start)] = piece
    d, spelt = offset_of(plan), "".join(pieces[start] for start in sorted(pieces))
    assert spelt == TEXT[d + 1 : d + 1 + len(spelt)]
    assert len(TEXT) - len(spelt) <= d + (5 if kind == "random" else 2)


# Windows of random length


@given(streams("sequential"))
def test_random_windows_go_on_from_each_other(stream):
    """The targets are those of sequential partitioning, in windows of the lengths that there are."""
    _, n, batch_size, _, _ = stream
    epoch, plain = random_windows(*stream), sequential_partitioning(*stream)
    plan = epoch.rows(0, epoch.num_batches)
    assert sorted(inputs_of(plan)) == sorted(inputs_of(plain))
    assert plan.resets.tolist() == [True] + [False] * (epoch.num_batches - 1)
    longest = plan.lengths.max(axis=1)
    assert set(longest[:-1].tolist()) <= set(window_lengths(n)) and longest.max() <= window_lengths(n)[-1]
    np.testing.assert_array_equal(np.diff(plan.starts, axis=0), np.tile(longest[:-1, None], (1, batch_size)))
    # Any rows, and in any program: a function of seed and epoch.
    middle = epoch.num_batches // 2
    halves = random_windows(*stream).rows(0, middle), random_windows(*stream).rows(middle, epoch.num_batches)
    for whole, *parts in zip(plan, *halves, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_lengths_of_random_windows_have_the_moments_of_the_published_law():
    """Of 70: in 19 of 20 windows 70, else 35, with a standard deviation of 5."""
    epoch = random_windows(4_000_000, 70, 1, 3, 0)
    lengths = np.asarray(epoch.lengths)
    half = lengths < 52
    assert set(lengths.tolist()) == set(window_lengths(70)) == {26, 35, 44, 61, 70, 79}
    assert half.mean() == pytest.approx(0.05, abs=0.005)
    for part, mean in ((lengths[half], 35), (lengths[~half], 70)):
        assert part.mean() == pytest.approx(mean, abs=0.4) and part.std() == pytest.approx(5, abs=0.4)


def test_lengths_of_short_windows():
    assert window_lengths(1) == (1,) and window_lengths(2) == (1, 2) and window_lengths(14)[-1] == 16
    assert all(min(window_lengths(n)) >= 1 and len(window_lengths(n)) <= 6 for n in range(1, 300))


def test_random_windows_of_random_sampling_are_refused():
    with pytest.raises(ValueError, match=r"random_windows are for partition sequential, got .*random"):
        epoch_plan("random", 100, 5, 2, 0, 0, random=True)
