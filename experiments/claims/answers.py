"""Sequences of tokens with answers that are known exactly: training on the answers alone, and scoring them.

A block of a stream holds T inputs, then A answers, in ids of one vocabulary. The answers belong to the last A
inputs, one each; they are no inputs themselves, so that nothing tells the model how it did.

    block    x_1 ... x_T | y_{T-A+1} ... y_T        y_t is predicted from x_1 ... x_t
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer

from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.partition import Plan
from lmseq.training.fit import fit_members
from lmseq.training.gradient import Losses, StepInfo
from lmseq.training.job import Batches
from lmseq.types import Batch, Carry, NllTotals, Params

Blocks = Integer[np.ndarray, "rows time"]


def answer_loss(
    model: Model,
    params: Params,
    carry: Carry,
    batch: Batch,
    step: StepInfo,
    *,
    num_answers: int,
    growing_steps: int = 0,
) -> Losses:
    """Mean negative log-likelihood of the answers in nats, each block from the initial carry.

    growing_steps: a curriculum (Bengio et al. 2009): the answers that count are the first alone at first, and
    grow in number linearly, to all of them after so many steps.
    """
    blocks = jnp.concatenate([batch.inputs[:, :1], batch.targets], axis=1)
    inputs, answers = blocks[:, :-num_answers], blocks[:, -num_answers:]
    ahead = inputs.shape[1] - num_answers
    targets = jnp.pad(answers, [(0, 0), (ahead, 0)])
    start = model.init_carry(params, len(inputs))
    _, log_probs = model.token_log_probs(params, start, inputs, targets, training=True, key=step.key)
    number = num_answers
    if growing_steps:
        number = jnp.minimum(1 + num_answers * step.number // growing_steps, num_answers)
    counts = jnp.arange(num_answers) < number
    nll = -jnp.sum(jnp.where(counts[None], log_probs[:, ahead:], 0.0))
    totals = NllTotals(nll, len(inputs) * jnp.sum(counts, dtype=jnp.int32))
    return Losses(totals, carry, totals)


def blocks_in_order(length: int, num_steps: int, batch_size: int, seed: int, epoch: int) -> Plan:
    """The blocks of a stream one after the other: they were drawn at random, for one epoch."""
    del seed, epoch
    shape = (length // (num_steps + 1) // batch_size, batch_size)
    starts = (num_steps + 1) * np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    return Plan(starts, np.full(shape, num_steps, np.int32), np.ones(shape[0], bool))


def train_on_answers(
    model: Model,
    blocks: Sequence[Blocks],
    num_answers: int,
    train: TrainConfig,
    batch_size: int,
    seeds: Sequence[int],
    growing_steps: int = 0,
) -> list[Params]:
    """Parameters of a training from each seed, on blocks (steps * batch_size, T + A) of its own."""
    batches = Batches(batch_size, blocks[0].shape[1] - 1, blocks_in_order)
    objective = partial(answer_loss, num_answers=num_answers, growing_steps=growing_steps)
    found: list[Params] = []
    for each, seed in zip(blocks, seeds, strict=True):
        # One seed a program, which takes one device: XLA of jax 0.11 crashes when it compiles a matrix state
        # without a convolution for several CPU devices.
        stream = [each.reshape(-1)]
        found += fit_members(model, stream, train, [seed], batches=batches, objective=objective)
    return found


@partial(jax.jit, static_argnums=0)
def right_answers(model: Model, params: Params, inputs: Any, answers: Any) -> Any:
    """Whether the most probable token after each of the last A inputs (B, T) is the answer, (B, A)."""
    _, predictions = model.unroll(params, model.init_carry(params, len(inputs)), inputs)
    return jnp.argmax(predictions[:, -answers.shape[1] :], axis=-1) == answers


def carry_bytes(model: Model, params: Params) -> int:
    """Bytes of what is carried from one step of one sequence to the next, in all."""
    carry = jax.eval_shape(lambda params: model.init_carry(params, 1), params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry))
