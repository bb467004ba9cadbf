"""Neural models of a text, fitted with few words from many seeds."""

from collections.abc import Sequence
from functools import partial

from experiments.frame.measuring import fit_members
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.partition import sequential_partitioning
from lmseq.data.texts import Texts
from lmseq.types import Params


def fit_neural(
    model: Model,
    texts: Texts,
    seeds: Sequence[int],
    num_train_steps: int,
    batch_size: int = 32,
    num_steps: int = 32,
) -> list[Params]:
    """Parameters after a training on the training text from each seed, in one program."""
    train = TrainConfig(
        num_train_steps=num_train_steps,
        warmup_steps=min(50, num_train_steps - 1),
        steps_per_dispatch=min(100, num_train_steps),
    )
    ids = texts.ids["train"]
    plan_of = partial(sequential_partitioning, ids.size, num_steps, batch_size)
    return fit_members(model, train, seeds, [ids], plan_of, batch_size, num_steps)
