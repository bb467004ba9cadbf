"""The training state and its keys: state in, state out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Integer

from lmseq.contract import Model
from lmseq.types import Carry, Params, PRNGKey


class TrainState(NamedTuple):
    """After `step` optimiser steps, int32 ()."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


class LoopState(NamedTuple):
    """All that a step changes: the state, and the carry that sequential partitioning hands on."""

    state: TrainState
    carry: Carry


class Keys(NamedTuple):
    """The keys of a run: initial parameters, noise of the steps, samples on the way, and what comes after."""

    init: PRNGKey
    train: PRNGKey
    sample: PRNGKey
    after: PRNGKey


def split_key(seed: int | Integer[Array, ""]) -> Keys:
    """The keys that a seed fixes, for every script, `fit` and the members of an ensemble; vmappable.

    Each depends on its place and not on how many there are, as JAX's keys are split since
    `jax_threefry_partitionable` is its default: the first two equal `jax.random.split(jax.random.key(seed))`.
    """
    return Keys(*jax.random.split(jax.random.key(seed), 4))


def init_training(
    key: PRNGKey, model: Model, optimizer: optax.GradientTransformation, batch_size: int
) -> LoopState:
    """Fresh parameters, optimiser state and initial carry, at step 0."""
    params = model.init(key)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    return LoopState(state, model.init_carry(params, batch_size))


def init_training_jit(
    key: PRNGKey, model: Model, optimizer: optax.GradientTransformation, batch_size: int
) -> LoopState:
    """`init_training` in one program, so that start-up does not run hundreds of small ones."""
    return jax.jit(lambda key: init_training(key, model, optimizer, batch_size))(key)
