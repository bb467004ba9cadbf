"""What is trained, on which batches, and whether it can be: asked before anything is compiled or written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from lmseq.config.training import TrainConfig, check_train
from lmseq.contract import Model, covariates_of
from lmseq.data.partition import Epoch, PartitionKind, check_stream, epoch_plan, window_lengths
from lmseq.predictions import point
from lmseq.training.gradient import Objective
from lmseq.training.memory import check_memory
from lmseq.training.sharding import check_batch, make_mesh
from lmseq.training.train_step import window_loss
from lmseq.training.validated import is_validated
from lmseq.training.watch import Clock, Evaluate
from lmseq.types import OfValues, PRNGKey, Stream

# The batches of an epoch, of (length of the stream, num_steps, batch_size, seed, epoch).
Partition = Callable[[int, int, int, int, int], Epoch]


class Batches(NamedTuple):
    """Which windows of the stream make which batch; the defaults are those of `DataConfig`.

    batch_size: rows of a batch. num_steps: inputs of a window. partition: `sequential` or `random` windows,
    or a function like `data.partition.sliding`, which is for series. random_windows: sequential windows are
    of random length around num_steps (`data.partition.random_windows`).
    """

    batch_size: int = 32
    num_steps: int = 32
    partition: PartitionKind | Partition = "sequential"
    random_windows: bool = False

    @property
    def sizes(self) -> tuple[int, int, tuple[int, ...]]:
        """Rows of a batch, inputs of a window, and the lengths that random windows have; none of others."""
        lengths = window_lengths(self.num_steps) if self.random_windows else ()
        return self.batch_size, self.num_steps, lengths

    @property
    def most_steps(self) -> int:
        """Inputs of the longest window."""
        return max(self.num_steps, *self.sizes[2], 1)

    def plan_of(self, length: int, seed: int, epoch: int) -> Epoch:
        """The batches of one epoch of a stream of `length` elements."""
        partition = self.partition
        if isinstance(partition, str):
            partition = partial(epoch_plan, partition, random=self.random_windows)
        return partition(length, self.num_steps, self.batch_size, seed, epoch)


class Job(NamedTuple):
    """What is trained, on what, and how: the arguments of `fit`.

    clock: seconds since the process began; without it, since the training began.
    """

    model: Model
    stream: Stream
    train: TrainConfig
    batches: Batches = Batches()
    objective: Objective = window_loss
    workdir: Path | None = None
    evaluate: Evaluate | None = None
    clock: Clock | None = None


def check_job(job: Job) -> None:
    """Raise ValueError, in one line, for a training that cannot be done; reads no checkpoint."""
    check_train(job.train)
    try:
        hash((job.model, job.objective))
    except TypeError as error:
        raise ValueError(
            f"expected a model and an objective that can be hashed ({error}): use frozen dataclasses"
        ) from None
    if job.evaluate is None and is_validated(job.train):
        raise ValueError(
            "expected evaluate with plateau_patience or average=triggered: they follow its valid_loss"
        )
    (batch_size, num_steps, partition, _), stream = job.batches, job.stream
    _check_elements(job.model, stream)
    if isinstance(partition, str):
        check_stream(len(stream), num_steps, batch_size, partition)
    job.batches.plan_of(len(stream), job.train.seed, 0)
    check_batch(make_mesh(), batch_size, job.train.accumulate_steps)
    check_memory(job.model, shard=job.train.shard)
    if job.workdir is not None and job.workdir.exists() and not job.workdir.is_dir():
        raise ValueError(f"expected a folder as workdir, {job.workdir} is a file: name another")


def _check_elements(model: Model, stream: Stream) -> None:
    """Whether the stream is one of what the model predicts."""
    if not stream.size:
        raise ValueError(f"expected a stream to train on, got an empty one of shape {stream.shape}")

    def first_prediction(key: PRNGKey):
        params = model.init(key)
        return model.readout(params, model.init_carry(params, 1))

    predicted = jax.eval_shape(first_prediction, jax.random.key(0))
    integers = np.issubdtype(stream.dtype, np.integer)
    if isinstance(predicted, OfValues):
        width = jax.eval_shape(point, predicted).shape[-1] + covariates_of(model).total
        if integers or stream.ndim != 2 or stream.shape[1] != width:
            raise ValueError(
                f"expected values (T, {width}) as the model reads them, got {stream.dtype} {stream.shape}"
            )
        return
    if not integers or stream.ndim != 1:
        raise ValueError(
            f"expected token ids (T,) as the model reads them, got {stream.dtype} {stream.shape}"
        )
    most = predicted.shape[-1] - 1
    if stream.min() < 0 or stream.max() > most:
        raise ValueError(f"expected token ids from 0 to {most}, got {stream.min()} to {stream.max()}")
