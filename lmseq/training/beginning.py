"""A training that begins with the parameters of another, and where wanted with its optimiser's state."""

import jax
import jax.numpy as jnp
import optax

from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.training.optimizer import optimizer_of
from lmseq.training.state import LoopState, TrainState, init_training
from lmseq.types import Params


def begun_with(
    model: Model,
    train: TrainConfig,
    batch_size: int,
    params: Params,
    opt_state: optax.OptState | None = None,
) -> LoopState:
    """The state at step 0 with given parameters, a carry that knows nothing, and the optimiser's state.

    Without opt_state that is a fresh one. With it, moments and their bias correction go on, and the schedule
    begins at its first step. Raises ValueError for parameters of other names or shapes than the model's, and
    for a state that is not of this optimiser.
    """
    fresh = jax.eval_shape(lambda key: init_state(key, model, train, batch_size), jax.random.key(0))
    _check_alike(fresh.state.params, params, "parameters")
    if opt_state is None:
        opt_state = jax.jit(optimizer_of(model, train).init)(params)
    else:
        _check_alike(fresh.state.opt_state, opt_state, "optimiser state")
        opt_state = _with_schedule_anew(opt_state)
    carry = jax.jit(lambda params: model.init_carry(params, batch_size))(params)
    return LoopState(TrainState(jnp.zeros((), jnp.int32), params, opt_state), carry)


def init_state(key: jax.Array, model: Model, train: TrainConfig, batch_size: int) -> LoopState:
    """`init_training` with the optimiser that the settings name."""
    return init_training(key, model, optimizer_of(model, train), batch_size)


def _check_alike(expected: object, got: object, what: str) -> None:
    """ValueError for the first leaf that is not there, or of another shape."""
    shapes = [
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (expected, got)
    ]
    for name in {**shapes[0], **shapes[1]}:
        here, there = (each.get(name, "none") for each in shapes)
        if here != there:
            raise ValueError(f"expected {what} of the same shapes, got {name}: {there} there, {here} here")


def _with_schedule_anew(opt_state: optax.OptState) -> optax.OptState:
    """The same state before the first step of its schedule."""

    def is_schedule(node: object) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def anew(node: object) -> object:
        return node._replace(count=jnp.zeros_like(node.count)) if is_schedule(node) else node

    return jax.tree.map(anew, opt_state, is_leaf=is_schedule)
