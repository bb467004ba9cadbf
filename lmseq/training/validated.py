"""Parts of an optimiser that evaluations steer: the rate at a plateau, and the mean of the weights.

Both are optax's transformations whose state is saved with the optimiser's, so that a run goes on bit for bit.
`observe` tells them a validation loss.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lmseq.config.training import TrainConfig
from lmseq.types import Params


class Plateau(NamedTuple):
    """What updates are multiplied by, the lowest validation loss, and how many since were not below it."""

    scale: Float[Array, ""]
    lowest: Float[Array, ""]
    since: Int[Array, ""]


class Average(NamedTuple):
    """The mean of the weights after `count` steps, and what decides when it begins.

    lowest: of all evaluations but those in `latest`, the last n, oldest first; infinite where there are none.
    """

    mean: Params
    count: Int[Array, ""]
    has_begun: Array  # bool ()
    lowest: Float[Array, ""]
    latest: Float[Array, "evaluation"]


def scale_at_plateaus() -> optax.GradientTransformation:
    """Updates times the scale that `observe` lowers."""

    def init(params: Params) -> Plateau:
        return Plateau(jnp.ones(()), jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))

    def update(updates: Params, state: Plateau, params: Params | None = None) -> tuple[Params, Plateau]:
        return jax.tree.map(lambda each: state.scale * each, updates), state

    return optax.GradientTransformation(init, update)


def average_weights(train: TrainConfig) -> optax.GradientTransformation:
    """Leaves the updates as they are, and keeps the mean of the weights that they lead to.

    After step t the mean moves towards the weights by the share 1 / count of what is between them; an
    exponential one by no less than 1 - average_decay. A triggered one equals the weights until it begins, and
    from then on is the mean of all (Polyak and Juditsky 1992; NT-ASGD, Merity et al. 2018).
    """
    at_once = train.average == "exponential"

    def init(params: Params) -> Average:
        latest = jnp.full(train.average_patience, jnp.inf)
        # A copy: what stands twice in a state cannot be donated.
        mean = jax.tree.map(jnp.copy, params)
        return Average(mean, jnp.zeros((), jnp.int32), jnp.asarray(at_once), jnp.full((), jnp.inf), latest)

    def update(updates: Params, state: Average, params: Params | None = None) -> tuple[Params, Average]:
        count = jnp.where(state.has_begun, state.count + 1, 1)
        share = 1.0 / count
        if at_once:
            share = jnp.maximum(share, 1.0 - train.average_decay)
        mean = optax.incremental_update(optax.apply_updates(params, updates), state.mean, share)
        return updates, state._replace(mean=mean, count=count)

    return optax.GradientTransformation(init, update)


def is_validated(train: TrainConfig) -> bool:
    """Whether evaluations change the training."""
    return train.plateau_patience > 0 or train.average == "triggered"


def observe(train: TrainConfig, opt_state: Any, valid_loss: float) -> Any:
    """The optimiser's state after an evaluation, its arrays in full on this host.

    The scale is multiplied by decay_factor at the plateau_patience-th loss in a row that is not below the
    lowest, and counting begins anew. A triggered mean begins when the loss is above the lowest of all
    evaluations but the last average_patience.
    """
    told = {
        Plateau: partial(_after_loss, valid_loss, train.plateau_patience, train.decay_factor),
        Average: partial(_after_check, valid_loss),
    }

    def of(node: Any) -> Any:
        return told[type(node)](node) if type(node) in told else node

    return jax.tree.map(of, opt_state, is_leaf=lambda node: type(node) in told)


def _after_loss(loss: float, patience: int, factor: float, state: Plateau) -> Plateau:
    loss = jnp.asarray(loss, jnp.float32)
    since = jnp.where(loss < state.lowest, 0, state.since + 1)
    is_due = since >= patience
    return Plateau(
        jnp.where(is_due, factor * state.scale, state.scale),
        jnp.minimum(loss, state.lowest),
        jnp.where(is_due, 0, since),
    )


def _after_check(loss: float, state: Average) -> Average:
    loss = jnp.asarray(loss, jnp.float32)
    return state._replace(
        has_begun=state.has_begun | (loss > state.lowest),
        lowest=jnp.minimum(state.lowest, state.latest[0]),
        latest=jnp.append(state.latest[1:], loss),
    )


def mean_weights(opt_state: Any) -> Params | None:
    """The mean of the weights in an optimiser's state; None where none is kept."""
    found = [node for node in _nodes(opt_state) if isinstance(node, Average)]
    return found[0].mean if found else None


def without_mean(opt_state: Any) -> Any:
    """The same state with nothing in the mean's place; `with_mean` puts it back."""
    return with_mean(opt_state, ())


def with_mean(opt_state: Any, mean: Any) -> Any:
    """An optimiser's state with a mean of the weights in its place, where it keeps one."""

    def of(node: Any) -> Any:
        return node._replace(mean=mean) if isinstance(node, Average) else node

    return jax.tree.map(of, opt_state, is_leaf=lambda node: isinstance(node, Average))


def _nodes(opt_state: Any) -> list[Any]:
    return jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Average))
