"""Neural models of a text, fitted with few words from many seeds."""

from collections.abc import Sequence

from experiments.frame.progress import steps_bar
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.texts import Texts
from lmseq.training.fit import fit_members
from lmseq.training.job import Batches
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
    batches = Batches(batch_size, num_steps)
    with steps_bar(num_train_steps) as show:
        return fit_members(model, [texts.ids["train"]], train, seeds, batches=batches, on_steps=show)
