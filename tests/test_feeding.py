"""Feeding from the host: the same batches, to the bit, as of a stream that is on the device."""

import sys
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data import partition
from lmseq.data.partition import LONG, LongEpoch, Plan, epoch_plan, sequential_partitioning
from lmseq.models.build import build_model
from lmseq.training import feeding
from lmseq.training.feeding import HostStream, feed, gather, gather_rows, rows_of
from lmseq.training.fit import fit
from lmseq.training.job import Batches
from lmseq.training.loop import PlanStream
from lmseq.training.sharding import make_mesh
from tests import unoptimised

KINDS = ("random", "sequential")


def same(left: Plan, right: Plan) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@given(
    num_tokens=st.integers(30, 300),
    num_steps=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["u1", "<u2", "<u4", "i4"]),
    first=st.integers(0, 20),
)
def test_gathered_windows_are_those_of_the_stream(
    kind, num_tokens, num_steps, batch_size, seed, dtype, first
):
    stream = np.random.default_rng(seed).integers(0, 200, num_tokens).astype(dtype)
    plans = PlanStream(lambda epoch: LongEpoch(kind, num_tokens, num_steps, batch_size, seed, epoch))
    plan = plans.slice(first, first + 3)
    fed = gather(HostStream(stream, num_steps), plan)
    assert fed.stream.dtype == np.int32 and fed.plan.starts.dtype == np.int32
    np.testing.assert_array_equal(windows(fed.stream, fed.plan, num_steps), windows(stream, plan, num_steps))
    assert np.array_equal(fed.plan.lengths, plan.lengths) and np.array_equal(fed.plan.resets, plan.resets)


@given(
    devices=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    each=st.integers(1, 3),
    num_steps=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_processes_share_the_rows_out(devices, each, num_steps, seed):
    batch_size, stream = each * len(devices), np.random.default_rng(seed).integers(0, 200, 300)
    plan = LongEpoch("random", 300, num_steps, batch_size, seed, 0).rows(0, 3)
    expected, done, sizes = windows(stream, plan, num_steps), [], set()
    for process in set(devices):
        rows = rows_of(process, devices, batch_size)
        fed = gather_rows(HostStream(stream, num_steps), plan, rows)
        np.testing.assert_array_equal(
            windows(fed.stream, fed.plan, num_steps)[:, rows], expected[:, rows], strict=False
        )
        assert fed.plan.starts.shape == plan.starts.shape
        sizes.add(fed.stream.size)
        done += set(rows)
    assert sorted(done) == list(range(batch_size)) and len(sizes) == 1


def windows(stream: np.ndarray, plan: Plan, num_steps: int) -> np.ndarray:
    """What `take_batch` reads."""
    return stream[np.minimum(plan.starts[..., None] + np.arange(num_steps + 1), len(stream) - 1)]


@given(
    num_tokens=st.integers(30, 300),
    num_steps=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 5),
    data=st.data(),
)
def test_epochs_that_are_not_held(num_tokens, num_steps, batch_size, seed, epoch, data):
    sizes = (num_tokens, num_steps, batch_size, seed, epoch)
    plan, long = sequential_partitioning(*sizes), LongEpoch("sequential", *sizes)
    assert long.num_batches == plan.num_batches and same(long.rows(0, plan.num_batches), plan)
    first = data.draw(st.integers(0, plan.num_batches - 1))
    stop = data.draw(st.integers(first + 1, plan.num_batches))
    assert same(long.rows(first, stop), plan.rows(first, stop))
    # Of random windows the order is another; the windows are the same.
    plan, long = partition.random_sampling(*sizes), LongEpoch("random", *sizes)
    whole = long.rows(0, long.num_batches)
    assert long.num_batches == plan.num_batches
    assert np.array_equal(*(np.sort(each.starts[each.lengths > 0]) for each in (plan, whole)))
    assert np.array_equal(plan.lengths, whole.lengths) and whole.resets.all()
    first = data.draw(st.integers(0, plan.num_batches - 1))
    assert same(long.rows(first, first + 1), whole.rows(first, first + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_streams_beyond_int32(kind):
    """The places of five thousand million tokens; none of them is held."""
    num_tokens = 5 * 10**9
    epoch = epoch_plan(kind, num_tokens, 32, 8, 0, 0)
    plan = epoch.rows(epoch.num_batches - 5, epoch.num_batches)
    assert plan.starts.dtype == np.int64 and 2**32 < plan.starts.max() < num_tokens
    assert epoch_plan(kind, LONG + 1, 32, 8, 0, 0).rows(0, 2).starts.dtype == np.int32
    assert isinstance(epoch_plan(kind, 10_000, 32, 8, 0, 0), Plan)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_from_the_host_is_the_one_from_the_device(tmp_path, monkeypatch, kind):
    stream = np.random.default_rng(0).integers(0, 7, 700).astype(np.uint8)
    stream.tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", np.uint8, "r")
    model = build_model(ModelConfig(hidden_size=5), 7)
    train = TrainConfig(num_train_steps=12, steps_per_dispatch=4)
    fit_one = partial(fit, model, config=train, batches=Batches(8, 5, kind))
    params, records = fit_one(stream)
    monkeypatch.setattr(feeding, "LONG", 100)
    found, again = fit_one(mapped)
    jax.tree.map(np.testing.assert_array_equal, params, found)
    assert [record["train_loss"] for record in again] == [record["train_loss"] for record in records]


def test_what_goes_wrong_while_gathering_is_raised_and_the_thread_ends():
    def plan_of(first: int, end: int) -> Plan:
        if first >= 2:
            raise OSError("the disk is gone")
        return sequential_partitioning(100, 4, 8, 0, 0).rows(first, end)

    cuts = [(0, 1), (1, 2), (2, 3)]
    fed = feed(cuts, plan_of, make_mesh(), HostStream(np.zeros(100, np.uint8), 4))
    assert next(fed).plan.starts.shape == (1, 8) and next(fed).stream.shape == (40,)
    with pytest.raises(OSError, match="the disk is gone"):
        next(fed)


TRAINING = """
import sys
from pathlib import Path
import numpy as np
from experiments.frame.start import peak_memory, prepare_jax
prepare_jax()
from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.models.build import build_model
from lmseq.ngram.smoothing import unigram_log_probs
from lmseq.training.fit import train
from lmseq.training.job import Batches, Job
model = build_model(ModelConfig("linear"), 7)
settings = TrainConfig(num_train_steps=8, steps_per_dispatch=2)
peaks = []
for file in sys.argv[1:]:
    stream = np.memmap(file, np.uint8, "r")
    for kind in ("sequential", "random"):
        train(Job(model, stream, settings, Batches(64, 8, kind)))
    unigram_log_probs(stream, 7)
    peaks.append(peak_memory())
print(peaks[1] - peaks[0])
"""


def test_memory_of_training_does_not_grow_with_the_text(processes, tmp_path):
    """Of 160 MB of ids there are neither a copy, nor an order of windows, nor the map as a whole."""
    for name, size in (("short", LONG + 1), ("long", 160 << 20)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # zeros that take no room on the disk
    command = [sys.executable, "-c", TRAINING, *(str(tmp_path / name) for name in ("short", "long"))]
    env = processes.env | {"XLA_FLAGS": unoptimised.XLA_FLAGS}
    done = processes.execute(command, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50e6
