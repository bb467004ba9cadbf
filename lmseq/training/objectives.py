"""What a model of a series is trained to do: predict one step, or several on its own predictions.

A model trained on one step sees only true values, and then, in use, its own: errors that it never met
accumulate. Four remedies are offered beside teacher forcing. A segment holds tau - 1 values that are only
read, then n from each of which a prediction is trained, then those that lie further ahead:

    inputs   x_1 ... x_{tau-1} | x_tau ... x_{tau+n-1} | x_{tau+n} ... x_{tau+n+K-2}
    targets        read only   | n origins             | targets of K steps ahead only

Every objective is the mean negative log-density of its targets, in nats; for a point prediction that is
half the squared error plus a constant, and for quantiles the pinball loss.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lmseq.config.series import SeriesConfig
from lmseq.contract import Model, covariates_of, log_prob, predict_directly, with_covariates
from lmseq.models.averaged import Averaged
from lmseq.models.normalised import Normalised
from lmseq.noise import by_rows
from lmseq.predictions import point
from lmseq.training.gradient import Losses, Objective, StepInfo
from lmseq.types import Batch, Carry, Element, Elements, NllTotals, Params


def _losses(carry: Carry, log_probs: Float[Array, "..."], mask: Bool[Array, "..."]) -> Losses:
    totals = NllTotals(-jnp.sum(jnp.where(mask, log_probs, 0.0)), jnp.sum(mask, dtype=jnp.int32))
    return Losses(totals, carry, totals)


def _scored(targets: Elements, tau: int) -> Bool[Array, "batch time"]:
    """Which targets of (B, T, D) have tau values before them."""
    return jnp.broadcast_to(jnp.arange(targets.shape[1])[None] >= tau - 1, targets.shape[:2])


def teacher_forcing(
    model: Model,
    params: Params,
    carry: Carry,
    batch: Batch,
    step: StepInfo,
    *,
    tau: int,
    noise: float | Float[Array, ""] | None = None,
) -> Losses:
    """Each next value from the true ones; `noise` is added to the inputs (Sietsma and Dow 1991).

    Of the objectives here the only one that a model's dropout acts in: the others go step by step.
    """
    inputs = batch.inputs
    if noise is not None:
        width = inputs.shape[-1] - covariates_of(model).total
        values, rest = inputs[..., :width], inputs[..., width:]
        values = values + noise * jax.random.normal(by_rows(step.key, 0), values.shape)
        inputs = with_covariates(values, rest)
    start = model.init_carry(params, inputs.shape[0])
    dropout_key = jax.random.fold_in(step.key, 1)
    _, log_probs = model.token_log_probs(params, start, inputs, batch.targets, training=True, key=dropout_key)
    return _losses(carry, log_probs, _scored(batch.targets, tau))


def scheduled_sampling(
    model: Model,
    params: Params,
    carry: Carry,
    batch: Batch,
    step: StepInfo,
    *,
    tau: int,
    rate: float | Float[Array, ""],
    num_train_steps: int,
) -> Losses:
    """As teacher forcing, each input replaced by the model's own prediction with a growing probability.

    It rises linearly from 0 to `rate` over the training (Bengio et al. 2015). The gradient does not pass
    through what was fed back.
    """
    probability = rate * step.number / num_train_steps
    own = jax.random.bernoulli(by_rows(step.key, 0), probability, batch.inputs.shape[:2])
    own = own & (jnp.arange(batch.inputs.shape[1])[None] >= tau)

    def advance(state: tuple[Carry, Array], now: tuple[Element, Element, Bool[Array, "batch"]]):
        inner, predicted = state
        x, target, replace = now
        value = jnp.where(replace[:, None], predicted, x[:, :width])
        inner = model.update(params, inner, with_covariates(value, x[:, width:]))
        prediction = model.readout(params, inner)
        return (inner, lax.stop_gradient(point(prediction))), log_prob(prediction, target)

    width = batch.inputs.shape[-1] - covariates_of(model).total
    start = (model.init_carry(params, own.shape[0]), jnp.zeros_like(batch.inputs[:, 0, :width]))
    by_time = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (batch.inputs, batch.targets, own))
    log_probs = lax.scan(advance, start, by_time)[1].T
    return _losses(carry, log_probs, _scored(batch.targets, tau))


def _origins(model: Model, params: Params, inputs: Elements, tau: int, num_ahead: int) -> Carry:
    """The carries of all origins of all segments, (B n, ...)."""
    num_read, first = inputs.shape[1] - num_ahead + 1, 0
    start = model.init_carry(params, inputs.shape[0])
    if isinstance(model, Normalised):  # a window is nothing but values: none is made that is not read out
        first = tau - 1
        start = model.unroll(params, start, inputs[:, :first])[0] if first else start
    after = model.carries(params, start, inputs[:, first:num_read])
    return jax.tree.map(lambda leaf: leaf[:, tau - 1 - first :].reshape(-1, *leaf.shape[2:]), after)


def _ahead(targets: Elements, tau: int, num_ahead: int) -> Float[Array, "origin horizon feature"]:
    """The K targets of every origin, (B n, K, D); of inputs, those from the origin itself on."""
    first = jnp.arange(tau - 1, targets.shape[1] - num_ahead + 1)
    ahead = targets[:, first[:, None] + jnp.arange(num_ahead)[None]]
    return ahead.reshape(-1, *ahead.shape[2:])


def unrolled(
    model: Model, params: Params, carry: Carry, batch: Batch, step: StepInfo, *, tau: int, num_ahead: int
) -> Losses:
    """K steps from every origin on the model's own predictions, differentiated through all of them."""

    def advance(inner: Carry, target: Element):
        prediction = model.readout(params, inner)
        x = with_covariates(point(prediction), target[:, target.shape[-1] - num_beside :])
        return model.update(params, inner, x), log_prob(prediction, target)

    num_beside = covariates_of(model).total
    start = _origins(model, params, batch.inputs, tau, num_ahead)
    targets = _ahead(batch.targets, tau, num_ahead)
    log_probs = lax.scan(advance, start, jnp.swapaxes(targets, 0, 1))[1]
    return _losses(carry, log_probs, jnp.ones(log_probs.shape, bool))


def direct(
    model: Model,  # one that predicts several steps at once: `rollout.DirectModel`
    params: Params,
    carry: Carry,
    batch: Batch,
    step: StepInfo,
    *,
    tau: int,
    num_ahead: int,
) -> Losses:
    """K steps from every origin by a head that predicts them all at once: nothing is fed back."""
    carries, ahead = _origins(model, params, batch.inputs, tau, num_ahead), None
    if (num_beside := covariates_of(model).total) > 0:
        ahead = _ahead(batch.inputs[..., -num_beside:], tau, num_ahead)
    prediction = predict_directly(model, params, carries, ahead)
    log_probs = log_prob(prediction, _ahead(batch.targets, tau, num_ahead))
    return _losses(carry, log_probs, jnp.ones(log_probs.shape, bool))


def by_member(
    model: Averaged, params: Params, carry: Carry, batch: Batch, step: StepInfo, *, objective: Objective
) -> Losses:
    """Each member by itself: the sum of their losses, so that each has the gradient that it has alone.

    All see the same batches, with noise of their own. The loss that is reported is their mean.
    """

    def of_member(params: Params, carry: Carry, number: Int[Array, ""]) -> Losses:
        own = step._replace(key=jax.random.fold_in(step.key, number))
        return objective(model.model, params, carry, batch, own)

    members = jnp.arange(model.num_members)
    found = jax.vmap(of_member, in_axes=(0, 1, 0), out_axes=Losses(0, 1, 0))(params, carry, members)
    minimised, reported = found.minimised, found.reported
    return Losses(
        NllTotals(jnp.sum(minimised.nll), minimised.count[0]),
        found.carry,
        NllTotals(jnp.mean(reported.nll), reported.count[0]),
    )


def make_objective(config: SeriesConfig) -> Objective:
    """The objective that the config names, of each member where there are several."""
    objective = _of_one(config)
    return partial(by_member, objective=objective) if config.model.ensemble > 1 else objective


def _of_one(config: SeriesConfig) -> Objective:
    chosen, tau = config.objective, config.model.tau
    match chosen.objective:
        case "teacher_forcing":
            return partial(teacher_forcing, tau=tau)
        case "input_noise":
            return partial(teacher_forcing, tau=tau, noise=chosen.input_noise)
        case "scheduled_sampling":
            steps = config.train.num_train_steps
            return partial(scheduled_sampling, tau=tau, rate=chosen.sampling_rate, num_train_steps=steps)
        case "unrolled":
            return partial(unrolled, tau=tau, num_ahead=chosen.num_ahead)
        case "direct":
            return partial(direct, tau=tau, num_ahead=chosen.num_ahead)
        case _:
            raise ValueError(f"expected an objective of `ObjectiveConfig`, got {chosen.objective!r}")
