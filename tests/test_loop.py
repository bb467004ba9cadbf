"""The loop: where it cuts, which batches it feeds, and that going on equals not having stopped."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.language_model import DataConfig, LanguageModelConfig, ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import Plan, epoch_plan
from lmseq.models.build import build_model
from lmseq.training.loop import NonFiniteLossError, boundaries, dispatches
from lmseq.training.optimizer import make_optimizer
from lmseq.training.sharding import make_mesh, plan_sharding, training_sharding
from lmseq.training.state import LoopState, TrainState, init_training_jit
from lmseq.training.train_step import make_dispatch
from tests.oracles import text_plans

VOCAB = 5
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, 70), jnp.int32)
KEY = jax.random.key(7)
periods = st.lists(st.integers(1, 30), min_size=1, max_size=3)


# Cuts


@given(start=st.integers(0, 100), length=st.integers(0, 100), periods=periods)
def test_boundaries_partition_the_steps(start, length, periods):
    stop = start + length
    cuts = list(boundaries(start, stop, *periods))
    assert [step for first, end in cuts for step in range(first, end)] == list(range(start, stop))
    assert all(first < end for first, end in cuts)
    inner = {end for _, end in cuts[:-1]}
    assert inner == {step for step in range(start + 1, stop) if any(step % p == 0 for p in periods)}


@given(stop=st.integers(1, 150), periods=periods, data=st.data())
def test_going_on_makes_the_same_cuts(stop, periods, data):
    cuts = list(boundaries(0, stop, *periods))
    k = data.draw(st.integers(0, len(cuts) - 1))
    assert list(boundaries(cuts[k][0], stop, *periods)) == cuts[k:]


# Batches by step


def config_of(partition="sequential", **train) -> LanguageModelConfig:
    settings = {
        "optimizer": "adam",
        "learning_rate": 0.05,
        "warmup_steps": 3,
        "num_train_steps": 14,
        "steps_per_dispatch": 4,
        "eval_every": 6,
        "checkpoint_every": 8,
    }
    return LanguageModelConfig(
        DataConfig(partition=partition, batch_size=2, num_steps=5),
        ModelConfig(hidden_size=6, dropout=0.3),
        TrainConfig(**{**settings, **train}),
    )


@pytest.mark.parametrize("partition", ["random", "sequential"])
@given(num_tokens=st.integers(10, 60), seed=st.integers(0, 99), start=st.integers(0, 40), data=st.data())
def test_plan_stream_is_the_epochs_in_a_row(partition, num_tokens, seed, start, data):
    config = config_of(partition, seed=seed)
    epochs = [epoch_plan(partition, num_tokens, 5, 2, seed, epoch) for epoch in range(61)]
    whole = Plan(*(np.concatenate(leaves) for leaves in zip(*epochs, strict=True)))
    stream = text_plans(config, num_tokens)
    # Ranges in any order, as epochs are kept and forgotten.
    for _ in range(3):
        first = data.draw(st.integers(0, 40))
        for begin in (start, first):
            end = data.draw(st.integers(begin + 1, begin + 20))
            piece = stream.slice(begin, end)
            for got, expected in zip(piece, whole, strict=True):
                np.testing.assert_array_equal(got, expected[begin:end])


# Training


@cache
def built(model_config: ModelConfig, train_config: TrainConfig, num_steps: int):
    """Model, optimiser and dispatch: the same objects for the same settings, so that programs are too."""
    model, optimizer = build_model(model_config, VOCAB), make_optimizer(train_config)
    return model, optimizer, make_dispatch(model, optimizer, num_steps)


class Setup:
    """A small run on one device, with dropout, over several epochs."""

    def __init__(self, config: LanguageModelConfig) -> None:
        self.config, batch_size = config, config.data.batch_size
        model, optimizer, self.dispatch = built(config.model, config.train, config.data.num_steps)
        self.mesh = make_mesh(jax.devices()[:1])
        self.fresh = jax.device_get(init_training_jit(jax.random.key(0), model, optimizer, batch_size))

    def place(self, loop_state: LoopState) -> LoopState:
        return jax.device_put(loop_state, training_sharding(self.mesh, loop_state))

    def run(self, loop_state: LoopState):
        """The yields from here to the end, on the host before the next dispatch takes them."""
        running = dispatches(
            self.config.train,
            text_plans(self.config, TOKENS.size),
            self.dispatch,
            self.mesh,
            self.place(loop_state),
            TOKENS,
            KEY,
        )
        return [(step, jax.device_get(at), metrics) for step, at, metrics in running]

    def one_by_one(self):
        """The run by dispatches of one step: where each ended, with its metrics."""
        plans, loop_state = text_plans(self.config, TOKENS.size), self.place(self.fresh)
        for k in range(self.config.train.num_train_steps):
            plan = jax.device_put(plans.slice(k, k + 1), plan_sharding(self.mesh))
            loop_state, metrics = self.dispatch(loop_state, TOKENS, plan, KEY)
            yield jax.device_get(loop_state), metrics


def assert_same_bits(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("partition", ["random", "sequential"])
def test_going_on_equals_not_having_stopped(partition):
    setup = Setup(config_of(partition))
    unbroken = setup.run(setup.fresh)
    assert [step for step, *_ in unbroken] == [4, 6, 8, 12, 14]
    for k, (step, loop_state, _) in enumerate(unbroken):
        assert int(loop_state.state.step) == step
        assert_same_bits(setup.run(loop_state), unbroken[k + 1 :])


def test_dispatches_are_the_steps_in_order():
    setup = Setup(config_of())
    unbroken = setup.run(setup.fresh)
    ends = {step: loop_state for step, loop_state, _ in unbroken}
    losses = np.concatenate([metrics.totals.nll for *_, metrics in unbroken])
    for k, (loop_state, metrics) in enumerate(setup.one_by_one()):
        np.testing.assert_allclose(metrics.totals.nll[0], losses[k], rtol=1e-4)
        if k + 1 in ends:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), loop_state, ends[k + 1]
            )


def test_an_explosion_names_its_step():
    """Where single steps first meet what is not finite, found without the loop."""
    explosive = {"optimizer": "sgd", "learning_rate": 1e38, "clip_norm": 0.0, "schedule": "constant"}
    config = config_of(**explosive, warmup_steps=0, num_train_steps=4)
    setup = Setup(dataclasses.replace(config, model=ModelConfig(model="rnn", hidden_size=4)))
    fine = [
        bool(np.isfinite(metrics.totals.nll) & np.isfinite(metrics.grad_norm))
        for _, metrics in setup.one_by_one()
    ]
    bad = fine.index(False) + 1
    assert 1 < bad
    with pytest.raises(NonFiniteLossError, match=rf"at step {bad}: "):
        setup.run(setup.fresh)


def test_nan_parameters_are_noticed_at_the_next_step():
    setup = Setup(config_of())
    step, loop_state, _ = setup.run(setup.fresh)[1]
    assert step == 6
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), loop_state.state.params)
    broken = loop_state._replace(state=TrainState(loop_state.state.step, params, loop_state.state.opt_state))
    with pytest.raises(NonFiniteLossError, match="at step 7: "):
        setup.run(broken)


def test_a_finished_run_trains_no_further():
    setup = Setup(config_of())
    done = setup.fresh._replace(state=setup.fresh.state._replace(step=np.int32(14)))
    assert setup.run(done) == []


def test_the_seed_fixes_the_order():
    def starts(seed):
        config = dataclasses.replace(config_of("random"), train=TrainConfig(seed=seed))
        return text_plans(config, 300).slice(0, 40).starts

    np.testing.assert_array_equal(starts(1), starts(1))
    assert (starts(1) != starts(2)).any()
