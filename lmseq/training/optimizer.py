"""Optimisers and learning-rate schedules from a config: plain optax."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from lmseq.config.training import TrainConfig, num_warmup_steps
from lmseq.contract import Model, covariates_of
from lmseq.models.averaged import Averaged
from lmseq.training.validated import average_weights, scale_at_plateaus
from lmseq.types import Params

Number = float | Float[Array, ""]
ADAM_RMS = 0.2  # root mean square of Adam's updates at rate 1, to which Muon's are scaled (Liu et al. 2025)
# By the last name in the tree: matrices whose rows or columns are symbols, contexts or taps of a convolution.
NOT_INNER = ("embedding", "output_kernel", "ngram_rows", "ngram_kernel", "convolution")


def make_schedule(config: TrainConfig, peak: Number | None = None) -> optax.Schedule:
    """Learning rate by step: linear warm-up from zero to the peak, then the schedule that the config names.

    With t counted from the end of the warm-up: cosine falls to zero at num_train_steps (Loshchilov and Hutter
    2017); inverse is peak / (1 + t / decay_steps); staircase is peak decay_factor^floor((t - decay_begin) /
    decay_steps), peak before decay_begin; stable is the peak, then falls linearly to zero over the last
    `cooldown` of the steps (Hu et al. 2024). one_cycle rises from peak / 25 over the warm-up and falls to
    peak / 250,000 over the rest, each by a half wave of the cosine (Smith and Topin 2018).
    """
    warmup, num_steps = num_warmup_steps(config), config.num_train_steps
    peak = config.learning_rate if peak is None else peak
    match config.schedule:
        case "constant":
            after = optax.constant_schedule(peak)
        case "cosine":
            after = optax.cosine_decay_schedule(peak, num_steps - warmup)
        case "one_cycle":
            return optax.cosine_onecycle_schedule(num_steps, peak, warmup / num_steps)
        case "staircase":

            def after(step):  # in whole numbers: a quotient of floats may fall short of its stair
                stairs = jnp.maximum(step - config.decay_begin, 0) // config.decay_steps
                return peak * config.decay_factor ** stairs.astype(jnp.float32)
        case "stable":
            falling = min(max(1, round(config.cooldown * num_steps)), num_steps - warmup)
            after = optax.linear_schedule(peak, 0.0, falling, num_steps - warmup - falling)
        case "inverse":

            def after(step):
                return peak / (1.0 + jnp.asarray(step, jnp.float32) / config.decay_steps)
        case _:
            raise ValueError(f"expected a schedule of `TrainConfig`, got {config.schedule!r}")
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
    """Clipping by global norm (unless clip_norm is 0), then the optimiser on the schedule.

    SGD, Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019), Lion (Chen et al. 2023), or Muon
    (Jordan et al. 2024): for the matrices inside a net an orthogonal one near the momentum, as large as
    Adam's updates are (Liu et al. 2025), and AdamW for all other parameters.

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
        case "lion":
            update = optax.lion(schedule, weight_decay=number("weight_decay"), mask=decays)
        case "muon":
            decay = number("weight_decay")
            update = optax.contrib.muon(
                schedule,
                weight_decay=decay,
                weight_decay_mask=decays,
                adam_weight_decay=decay,
                muon_weight_dimension_numbers=_inner_matrices,
                consistent_rms=ADAM_RMS,
            )
        case _:
            raise ValueError(f"expected an optimizer of `TrainConfig`, got {config.optimizer!r}")
    clip = optax.clip_by_global_norm(number("clip_norm")) if config.clip_norm else optax.identity()
    return optax.chain(clip, update)


def optimizer_of(
    model: Model,
    config: TrainConfig,
    numbers: Mapping[str, Number] = MappingProxyType({}),
    *,
    has_scale: bool = False,
) -> optax.GradientTransformation:
    """`make_optimizer` for a model, and what evaluations steer; of an average of models one for each member.

    Each member's gradient is clipped by itself. has_scale: updates are multiplied by the argument `scale` of
    `update`, as a learning rate that differs from step to step.
    Weights of covariates that are known ahead do not decay: there are few of them, and an effect that is
    there, such as that of a holiday, is not to be forecast too small.
    """
    decays = _but_known_ahead if covariates_of(model).known else None
    optimizer = make_optimizer(config, numbers, decays)
    if isinstance(model, Averaged):
        optimizer = optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))
    steered = [_scale_updates()] * has_scale
    steered += [scale_at_plateaus()] * (config.plateau_patience > 0)
    steered += [average_weights(config)] * (config.average != "none")
    return optax.chain(optimizer, *steered) if steered else optimizer


def _scale_updates() -> optax.GradientTransformationExtraArgs:
    """Updates times an argument of their own."""

    def update(
        updates: Params, state: optax.EmptyState, params: Params | None = None, *, scale: Number, **_: Any
    ) -> tuple[Params, optax.EmptyState]:
        return jax.tree.map(lambda each: scale * each, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _inner_matrices(params: Params) -> PyTree:
    """How Muon reads each parameter: (inputs, outputs) of kernels inside a net; None where it does not."""

    # Without an embedding, the rows of a net's first kernel are symbols. Optax asks again of trees that hold
    # a mark without leaves in the place of what another part of it updates.
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    embeds = any(path[-1].key == "embedding" for path, _ in leaves)
    outer = NOT_INNER if embeds else (*NOT_INNER, "input_kernel_0")

    def of(path: tuple[Any, ...], leaf: Array | np.ndarray) -> optax.contrib.MuonDimensionNumbers | None:
        is_inner = leaf.ndim == 2 and min(leaf.shape) > 1 and path[-1].key not in outer
        return optax.contrib.MuonDimensionNumbers(0, 1) if is_inner else None

    return jax.tree_util.tree_map_with_path(of, params)


def _but_known_ahead(params: Params) -> PyTree:
    """Whether each parameter decays."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "known_kernel", params)
