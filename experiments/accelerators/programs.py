"""The programs of a language model's run, compiled for devices that are not there."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from experiments.accelerators.analysis import analyse, out_of_memory
from experiments.text.stages import batches_of
from lmseq import generation, scoring
from lmseq.config.language_model import LanguageModelConfig
from lmseq.contract import Model
from lmseq.data.partition import Plan
from lmseq.data.partition import scoring as scoring_plan
from lmseq.sampling import Decoding
from lmseq.training.optimizer import optimizer_of
from lmseq.training.regularised import objective_of
from lmseq.training.sharding import ROWS, plan_sharding, replicated, training_sharding
from lmseq.training.state import LoopState, init_training
from lmseq.training.train_step import make_dispatch

SCORED = (256, 32)  # inputs of a window and rows, as `score_stream` has them
SAMPLED = (64, 100)  # streams, and tokens of each


class Sizes(NamedTuple):
    """Symbols of the vocabulary, and tokens of the training and of the validation text."""

    vocab: int
    train: int
    valid: int


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """The mesh of `make_mesh`, over devices that only a topology describes."""
    return Mesh(np.array(devices), (ROWS,), axis_types=(AxisType.Auto,))


def placed(tree: Any, shardings: Any) -> Any:
    """Shapes and types of arrays, on their devices."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree, shardings
    )


def _array(whole: NamedSharding, *shape: int, kind: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, kind, sharding=whole)


def lowered(config: LanguageModelConfig, model: Model, sizes: Sizes, mesh: Mesh) -> dict[str, Callable]:
    """By name, what lowers each program of a run: a dispatch of training, scoring, sampling."""
    train, (batch_size, num_steps, lengths) = config.train, batches_of(config).sizes
    whole, optimizer = replicated(mesh), optimizer_of(model, train, has_scale=bool(lengths))
    fresh = jax.eval_shape(
        lambda key: init_training(key, model, optimizer, batch_size), jax.eval_shape(jax.random.key, 0)
    )
    loop_state: LoopState = placed(fresh, training_sharding(mesh, fresh, train.shard))
    key = placed(jax.eval_shape(jax.random.key, 0), whole)
    array = partial(_array, whole)

    def train_step():
        steps = min(train.steps_per_dispatch, train.num_train_steps)
        dispatch = make_dispatch(
            model,
            optimizer,
            num_steps,
            objective_of(config.loss),
            num_parts=train.accumulate_steps,
            mesh=mesh,
            shard=train.shard,
            lengths=lengths,
        )
        rows = jax.ShapeDtypeStruct((steps, batch_size), jnp.int32)
        plan = Plan(rows, rows, jax.ShapeDtypeStruct((steps,), jnp.bool_))
        return dispatch.lower(loop_state, array(sizes.train), placed(plan, plan_sharding(mesh)), key)

    def score():
        plan = scoring_plan(sizes.valid, *SCORED)
        windows = array(*plan.starts.shape)
        return scoring.score_strips.lower(
            model, loop_state.state.params, array(sizes.valid), windows, windows, SCORED[0]
        )

    def sample():
        arguments = key, model, loop_state.state.params, None, array(1), *SAMPLED, Decoding(), ()
        return generation.sample.lower(*arguments)

    return {"train_step": train_step, "score": score, "sample": sample}


def compile_all(programs: dict[str, Callable], memory: int) -> dict[str, dict[str, Any]]:
    """The figures of each program on devices of so many bytes of memory."""
    return {name: _compiled(lower, memory) for name, lower in programs.items()}


def _compiled(lower: Callable, memory: int) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        figures = analyse(lower().compile(), memory)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        figures = out_of_memory(str(error), memory)
    return figures | {"compile_seconds": round(time.monotonic() - begun, 3)}
