"""The jitted step: several optimiser steps in one dispatch."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from lmseq.config.training import Shard
from lmseq.contract import Model, log_prob
from lmseq.data.partition import Plan
from lmseq.programs import Program
from lmseq.scoring import nll_totals
from lmseq.training.gradient import Gradient, Losses, Objective, StepInfo, by_length, make_gradient
from lmseq.training.sharding import training_sharding
from lmseq.training.state import LoopState, TrainState
from lmseq.types import Batch, Carry, NllTotals, Params, PRNGKey, Stream


class StepMetrics(NamedTuple):
    """Of each step of a dispatch, (steps,): totals over its targets, global norm of its gradient."""

    totals: NllTotals
    grad_norm: Float[Array, "steps"]


def begin_windows(
    model: Model, params: Params, carry: Carry, batch: Batch, step: StepInfo
) -> tuple[Carry, Carry]:
    """The initial carry of the rows, and the one that their windows begin from: as `window_loss` says."""
    initial = model.init_carry(params, batch.inputs.shape[0])
    return initial, jax.tree.map(
        lambda new, old: jnp.where(step.reset, new, lax.stop_gradient(old)), initial, carry
    )


def window_loss(model: Model, params: Params, carry: Carry, batch: Batch, step: StepInfo) -> Losses:
    """Negative log-likelihood in nats of a batch of windows, teacher-forced.

    Without a reset the windows go on from `carry`, which is where back-propagation is truncated
    (Williams and Peng 1990). With one they begin from the initial carry, and its readout predicts their
    first input too: the first token counts in training as it does in scoring. The totals reported are
    over the targets alone, so that they compare with a validation loss.
    """
    initial, carry = begin_windows(model, params, carry, batch, step)
    end, log_probs = model.token_log_probs(
        params, carry, batch.inputs, batch.targets, training=True, key=step.key
    )
    totals = nll_totals(log_probs, batch.mask)

    def first_log_probs(params: Params, initial: Carry) -> Float[Array, "batch"]:
        return log_prob(model.readout(params, initial), batch.inputs[:, 0])

    first_totals = first_input_totals(first_log_probs, params, initial, batch, step)
    return Losses(jax.tree.map(jnp.add, totals, first_totals), end, totals)


def first_input_totals(
    log_probs_of: Callable[[Params, Carry], Float[Array, "batch"]],
    params: Params,
    initial: Carry,
    batch: Batch,
    step: StepInfo,
) -> NllTotals:
    """The totals of the windows' first inputs, which the initial carry predicts, of a step that resets.

    log_probs_of: their log-probabilities (B,), of parameters and initial carry. Of any other step the totals
    are nothing, and these are not computed: of many words a readout takes a twentieth of the step.
    """

    def none(params: Params, initial: Carry) -> Float[Array, "batch"]:
        return jnp.zeros_like(jax.eval_shape(log_probs_of, params, initial))

    log_probs = lax.cond(step.reset, log_probs_of, none, params, initial)
    return nll_totals(log_probs[:, None], batch.mask[:, :1] & step.reset)


def train_step(
    gradient: Gradient,
    optimizer: optax.GradientTransformation,
    loop_state: LoopState,
    tokens: Stream,
    row: Plan,
    key: PRNGKey,
    base_steps: int | None = None,
) -> tuple[LoopState, StepMetrics]:
    """One optimiser step on one batch of the plan (starts (B,), lengths (B,), reset ()).

    The step's own key is fold_in(key, step). base_steps: the length of a window whose learning rate is the
    schedule's; that of others is as much longer or shorter (Merity et al. 2018), by an optimiser that
    `optimizer_of` made with a scale. None: all have the schedule's.
    """
    state, carry = loop_state
    step = StepInfo(state.step, jax.random.fold_in(key, state.step), row.resets)
    grads, carry, totals = gradient(state.params, carry, tokens, row, step)
    scale = {} if base_steps is None else {"scale": jnp.max(row.lengths) / base_steps}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **scale)
    params = optax.apply_updates(state.params, updates)
    state = TrainState(state.step + 1, params, opt_state)
    return LoopState(state, carry), StepMetrics(totals, optax.tree.norm(grads))


Dispatch = Callable[[LoopState, Stream, Plan, PRNGKey], tuple[LoopState, StepMetrics]]


def make_dispatch(
    model: Model,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    objective: Objective = window_loss,
    *,
    num_parts: int = 1,
    mesh: Mesh | None = None,
    shard: Shard = "batch",
    lengths: tuple[int, ...] = (),
    made_of: Hashable = None,
) -> Dispatch:
    """A jitted scan of `train_step` over the rows of a plan; the training state is donated.

    Python is out of the way for as many steps as the plan has. One program is compiled for each number
    of rows it is given. The rest is as in `make_gradient`: on a mesh the state is to be placed by
    `training_sharding` with the same `shard`, and stays so. lengths: those that windows of random length
    have, increasing, with num_steps as their base (`partition.window_lengths`). made_of: what gives model,
    optimiser and all else in full, for the program to be kept (`lmseq.programs`); None where it is not.
    """
    make = partial(make_gradient, model, objective, num_parts=num_parts, mesh=mesh, shard=shard)
    gradient = by_length(make, lengths) if lengths else make(num_steps)
    base_steps = num_steps if lengths else None

    def dispatch(loop_state: LoopState, tokens: Stream, plan: Plan, key: PRNGKey):
        def step(loop_state: LoopState, row: Plan) -> tuple[LoopState, StepMetrics]:
            loop_state, metrics = train_step(gradient, optimizer, loop_state, tokens, row, key, base_steps)
            if mesh is not None and mesh.size > 1:
                placed = training_sharding(mesh, loop_state, shard)
                loop_state = lax.with_sharding_constraint(loop_state, placed)
            return loop_state, metrics

        return lax.scan(step, loop_state, plan)

    return Program(dispatch, made_of=made_of, donate_argnums=0)


def first_non_finite(metrics: StepMetrics, first_step: int) -> int | None:
    """The step, counted from `first_step` + 1, whose loss or gradient is not finite; None if all are.

    The metrics are on the host: NumPy, so that looking costs no program.
    """
    fine = np.isfinite(metrics.totals.nll) & np.isfinite(metrics.grad_norm)
    return None if fine.all() else first_step + 1 + int(np.argmin(fine))
