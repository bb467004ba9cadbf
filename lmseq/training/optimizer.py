"""Optimisers and learning-rate schedules from a config: plain optax."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from lmseq.config.training import TrainConfig, num_warmup_steps
from lmseq.contract import Model, covariates_of
from lmseq.models.averaged import Averaged
from lmseq.types import Params

Number = float | Float[Array, ""]


def make_schedule(config: TrainConfig, peak: Number | None = None) -> optax.Schedule:
    """Learning rate by step: linear warm-up from zero to the peak, then the schedule that the config names.

    cosine falls to zero at num_train_steps (Loshchilov and Hutter 2017); inverse is
    peak / (1 + t / decay_steps), t counted from the end of the warm-up.
    """
    warmup = num_warmup_steps(config)
    peak = config.learning_rate if peak is None else peak
    match config.schedule:
        case "constant":
            after = optax.constant_schedule(peak)
        case "cosine":
            after = optax.cosine_decay_schedule(peak, config.num_train_steps - warmup)
        case "inverse":

            def after(step):
                return peak / (1.0 + jnp.asarray(step, jnp.float32) / config.decay_steps)
        case _:
            raise ValueError(f"expected schedule constant, cosine or inverse, got {config.schedule!r}")
    if not warmup:
        return after

    # From 1 / warmup, not 0: the first step is not spent on an update of nothing.
    def warm(step):
        return peak * (jnp.asarray(step, jnp.float32) + 1.0) / warmup

    return optax.join_schedules([warm, after], [warmup])


def make_optimizer(
    config: TrainConfig,
    numbers: Mapping[str, Number] = MappingProxyType({}),
    decays: Callable[[Params], PyTree] | None = None,
) -> optax.GradientTransformation:
    """Clipping by global norm (unless clip_norm is 0), then SGD, Adam or AdamW on the schedule.

    `numbers` stand in place of the config's learning_rate, clip_norm, momentum and weight_decay where they
    are named; they may be traced. decays: of parameters a tree that says which of them decay; all, without.
    """

    def number(name: str) -> Number:
        return numbers.get(name, getattr(config, name))

    schedule = make_schedule(config, number("learning_rate"))
    match config.optimizer:
        case "sgd":
            update = optax.sgd(schedule, momentum=number("momentum") if config.momentum else None)
        case "adam":
            update = optax.adam(schedule)
        case "adamw":
            update = optax.adamw(schedule, weight_decay=number("weight_decay"), mask=decays)
        case _:
            raise ValueError(f"expected optimizer sgd, adam or adamw, got {config.optimizer!r}")
    clip = optax.clip_by_global_norm(number("clip_norm")) if config.clip_norm else optax.identity()
    return optax.chain(clip, update)


def optimizer_of(
    model: Model, config: TrainConfig, numbers: Mapping[str, Number] = MappingProxyType({})
) -> optax.GradientTransformation:
    """`make_optimizer` for a model; of an average, one for each member, whose gradient it clips by itself.

    Weights of covariates that are known ahead do not decay: there are few of them, and an effect that is
    there, such as that of a holiday, is not to be forecast too small.
    """
    decays = _but_known_ahead if covariates_of(model).known else None
    optimizer = make_optimizer(config, numbers, decays)
    if not isinstance(model, Averaged):
        return optimizer
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


def _but_known_ahead(params: Params) -> PyTree:
    """Whether each parameter decays."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "known_kernel", params)
