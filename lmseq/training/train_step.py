"""The jitted step: several optimiser steps in one dispatch."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lmseq.contract import Model, log_prob
from lmseq.data.partition import Plan, take_batch
from lmseq.scoring import nll_totals
from lmseq.training.state import LoopState, TrainState
from lmseq.types import Batch, Carry, NllTotals, Params, PRNGKey, Stream


class StepMetrics(NamedTuple):
    """Of each step of a dispatch, (steps,): totals over its targets, global norm of its gradient."""

    totals: NllTotals
    grad_norm: Float[Array, "steps"]


class StepInfo(NamedTuple):
    """The step being computed: its number, its own key, and whether the carry is reset."""

    number: Int[Array, ""]
    key: PRNGKey
    reset: Bool[Array, ""]


# What is minimised, of model, parameters, carry, batch and step: the loss, and the next carry with the
# totals.
Objective = Callable[
    [Model, Params, Carry, Batch, StepInfo], tuple[Float[Array, ""], tuple[Carry, NllTotals]]
]


def window_loss(
    model: Model, params: Params, carry: Carry, batch: Batch, step: StepInfo
) -> tuple[Float[Array, ""], tuple[Carry, NllTotals]]:
    """Mean negative log-likelihood in nats of a batch of windows, teacher-forced.

    Without a reset the windows go on from `carry`, which is where back-propagation is truncated
    (Williams and Peng 1990). With one they begin from the initial carry, and its readout predicts their
    first input too: the first token counts in training as it does in scoring. The totals reported are
    over the targets alone, so that they compare with a validation loss.
    """
    batch_size = batch.inputs.shape[0]
    initial = model.init_carry(params, batch_size)
    carry = jax.tree.map(lambda new, old: jnp.where(step.reset, new, lax.stop_gradient(old)), initial, carry)
    end, log_probs = model.token_log_probs(
        params, carry, batch.inputs, batch.targets, training=True, key=step.key
    )
    totals = nll_totals(log_probs, batch.mask)
    first = log_prob(model.readout(params, initial), batch.inputs[:, 0])
    first_totals = nll_totals(first[:, None], batch.mask[:, :1] & step.reset)
    loss = (totals.nll + first_totals.nll) / jnp.maximum(totals.count + first_totals.count, 1)
    return loss, (end, totals)


def train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    num_steps: int,
    loop_state: LoopState,
    tokens: Stream,
    row: Plan,
    key: PRNGKey,
) -> tuple[LoopState, StepMetrics]:
    """One optimiser step on one batch of the plan (starts (B,), lengths (B,), reset ()).

    The step's own key is fold_in(key, step).
    """
    state, carry = loop_state
    batch = take_batch(tokens, row.starts, row.lengths, num_steps)
    step = StepInfo(state.step, jax.random.fold_in(key, state.step), row.resets)
    gradient = jax.grad(objective, argnums=1, has_aux=True)
    grads, (carry, totals) = gradient(model, state.params, carry, batch, step)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = TrainState(state.step + 1, params, opt_state)
    return LoopState(state, carry), StepMetrics(totals, optax.tree.norm(grads))


Dispatch = Callable[[LoopState, Stream, Plan, PRNGKey], tuple[LoopState, StepMetrics]]


def make_dispatch(
    model: Model,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    objective: Objective = window_loss,
) -> Dispatch:
    """A jitted scan of `train_step` over the rows of a plan; the training state is donated.

    Python is out of the way for as many steps as the plan has. One program is compiled for each number
    of rows it is given.
    """
    step = partial(train_step, model, optimizer, objective, num_steps)

    def dispatch(loop_state: LoopState, tokens: Stream, plan: Plan, key: PRNGKey):
        return lax.scan(lambda loop_state, row: step(loop_state, tokens, row, key), loop_state, plan)

    return jax.jit(dispatch, donate_argnums=0)


def first_non_finite(metrics: StepMetrics, first_step: int) -> int | None:
    """The step, counted from `first_step` + 1, whose loss or gradient is not finite; None if all are.

    The metrics are on the host: NumPy, so that looking costs no program.
    """
    fine = np.isfinite(metrics.totals.nll) & np.isfinite(metrics.grad_norm)
    return None if fine.all() else first_step + 1 + int(np.argmin(fine))
