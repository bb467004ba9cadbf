"""An ensemble against its members trained alone."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import epoch_plan
from lmseq.models.build import build_model
from lmseq.models.interface import bind
from lmseq.training import ensemble, feeding, loop, optimizer, sharding, state, train_step
from lmseq.training.ensemble import Members

STREAM = np.random.default_rng(0).integers(7, size=600).astype(np.int32)
TRAIN = TrainConfig(num_train_steps=12, steps_per_dispatch=5, learning_rate=0.01, warmup_steps=2)


def plan_of(seed, epoch):
    return epoch_plan("sequential", STREAM.size, 6, 4, seed, epoch)


def model_of(kind="gru"):
    return build_model(ModelConfig(model=kind, hidden_size=8, dropout=0.1 if kind == "gru" else 0.0), 7)


def together(members, model=None):
    return ensemble.ensemble_run(model or model_of(), TRAIN, members, STREAM, plan_of, 4, 6)


def alone(model, train, seed):
    """The parameters and losses of one training, as `fit` makes it."""
    keys = state.split_key(seed)
    updates = optimizer.make_optimizer(train)
    mesh = sharding.make_mesh(jax.devices()[:1])
    loop_state = state.init_training_jit(keys.init, model, updates, 4)
    plans = loop.PlanStream(partial(plan_of, seed))
    dispatch = train_step.make_dispatch(model, updates, 6)
    losses = []
    for done in loop.dispatches(train, plans, dispatch, mesh, loop_state, STREAM, keys.train):
        loop_state = done.loop_state
        losses.append(done.metrics.totals.nll)
    return loop_state.state.params, np.concatenate(losses)


@pytest.mark.parametrize("kind, num_seeds", [("gru", 3), ("mlp", 16)])
def test_a_member_is_as_if_it_were_alone(kind, num_seeds):
    seeds = tuple(range(5, 5 + num_seeds))
    losses = []
    for done in together(Members(seeds, {}), model_of(kind)):
        losses.append(done.metrics.totals.nll)
    losses = np.concatenate(losses, axis=1)
    assert done.step == TRAIN.num_train_steps
    for index in {0, num_seeds - 1}:
        params, expected = alone(model_of(kind), TRAIN, seeds[index])
        np.testing.assert_allclose(losses[index], expected, rtol=1e-5)
        found = ensemble.member(done.loop_state, index).state.params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, params)


def test_members_may_differ_in_numbers():
    rates, norms = (0.001, 0.1), (0.1, 5.0)
    members = Members((0, 0), {"learning_rate": rates, "clip_norm": norms})
    *_, done = together(members)
    for index, (seed, rate, norm) in enumerate(zip(members.seeds, rates, norms, strict=True)):
        params, _ = alone(model_of(), dataclasses.replace(TRAIN, learning_rate=rate, clip_norm=norm), seed)
        found = ensemble.member(done.loop_state, index).state.params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, params)


def test_members_may_differ_in_what_a_model_is_built_with():
    rates, model = (0.1, 0.6), model_of()

    def parts(numbers):
        return bind(model.module.clone(dropout=numbers["dropout"])), train_step.window_loss

    members = Members((3, 3), {"dropout": rates})
    *_, done = ensemble.ensemble_run(model, TRAIN, members, STREAM, plan_of, 4, 6, parts=parts)
    for index, rate in enumerate(rates):
        params, _ = alone(bind(model.module.clone(dropout=rate)), TRAIN, 3)
        found = ensemble.member(done.loop_state, index).state.params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, params)
    with pytest.raises(ValueError, match="expected parts to build with for dropout"):
        next(together(members))


def test_all_at_once_is_one_after_the_other():
    mesh = ensemble.make_member_mesh(3, jax.devices()[:1])
    x = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    slow = ensemble._by_member(mesh, lambda a, b: a * b, num_shared=1)(x, np.float32(2.0))
    np.testing.assert_array_equal(slow, 2.0 * x)


@pytest.mark.parametrize("members, devices, count", [(16, 8, 8), (3, 8, 3), (5, 2, 1), (6, 4, 3)])
def test_devices_get_equal_shares(members, devices, count):
    assert ensemble.make_member_mesh(members, jax.devices()[:devices]).size == count


@pytest.mark.parametrize(
    "members, message",
    [
        (Members((), {}), "at least one seed"),
        (Members((0,), {"tau": (1.0,)}), "got 'tau'"),
        (Members((0, 1), {"learning_rate": (0.1,)}), "2 values of learning_rate"),
        (Members((0,), {"weight_decay": (0.1,)}), "weight_decay is switched off"),
        (Members((0,), {"learning_rate": (float("nan"),)}), "above 0"),
    ],
)
def test_members_that_do_not_fit_are_refused(members, message):
    with pytest.raises(ValueError, match=message):
        ensemble.check_members(members, TRAIN)


def test_members_are_whole():
    with pytest.raises(ValueError, match="each member is whole on its device: shard=params"):
        ensemble.check_members(Members((0,), {}), dataclasses.replace(TRAIN, shard="params"))


def test_the_member_that_diverges_is_named():
    members = Members((3, 4), {"learning_rate": (0.01, 1e30)})
    with pytest.raises(ensemble.NonFiniteMembersError, match=r"of seed 4, learning_rate 1e\+30") as caught:
        list(together(members))
    assert isinstance(caught.value, loop.NonFiniteLossError) and list(caught.value.steps) == [1]


def test_members_on_a_stream_that_stays_on_the_host(monkeypatch):
    """Of which only windows are sent: the same members, to the bit."""

    def ends():
        *_, last = together(Members((0, 1), {}))
        return last.loop_state.state.params

    on_device = ends()
    monkeypatch.setattr(feeding, "LONG", 1)
    jax.tree.map(np.testing.assert_array_equal, ends(), on_device)
