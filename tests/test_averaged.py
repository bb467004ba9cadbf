"""An average of members: their predictions by hand, and each member trained as if it were alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import panels, rollout
from lmseq.config.knobs import from_flat, from_json, to_json
from lmseq.config.series import SeriesConfig, num_direct, segment_length
from lmseq.contract import Model
from lmseq.data.partition import sliding, take_batch
from lmseq.models.build import build_series_model
from lmseq.models.interface import BoundModel
from lmseq.predictions import point
from lmseq.training import loop, sharding, state
from lmseq.training.checkpoint import load_params
from lmseq.training.fit import fit, fit_members
from lmseq.training.gradient import StepInfo
from lmseq.training.job import Batches
from lmseq.training.objectives import make_objective, teacher_forcing
from lmseq.training.optimizer import optimizer_of
from lmseq.training.train_step import make_dispatch
from lmseq.types import Normal
from tests.test_series_models import drawn

D, S = 2, 2
KEYS = state.split_key(0)
VALUES = np.random.default_rng(0).normal(size=(90, D)).cumsum(axis=0).astype(np.float32) / 5
SMALL = {"tau": 3, "hidden_size": 4, "num_layers": 1, "num_steps": 4, "batch_size": 16, "num_ahead": 3}
SHORT = {"num_train_steps": 6, "steps_per_dispatch": 3, "checkpoint_every": 3, "warmup_steps": 1}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def member_of(tree, number: int):
    return jax.tree.map(lambda leaf: leaf[number], tree)


def config_of(ensemble: int = S, **settings) -> SeriesConfig:
    return from_flat({**SMALL, **SHORT, "ensemble": ensemble, **settings}, SeriesConfig)


def model_of(config: SeriesConfig) -> Model:
    return build_series_model(config.model, D, num_direct=num_direct(config))


def batches_of(config: SeriesConfig) -> Batches:
    return Batches(config.data.batch_size, segment_length(config), sliding)


def trained(config: SeriesConfig, *starts) -> list[tuple]:
    """Parameters and losses of a training on one device, from each of some initial parameters."""
    model = model_of(config)
    mesh, updates = sharding.make_mesh(jax.devices()[:1]), optimizer_of(model, config.train)
    batches, parts, found = batches_of(config), config.train.accumulate_steps, []
    dispatch = make_dispatch(model, updates, batches.num_steps, make_objective(config), num_parts=parts)
    init_optimizer = jax.jit(updates.init)
    for params in starts:
        begun = state.TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), init_optimizer(params))
        loop_state = state.LoopState(begun, model.init_carry(params, batches.batch_size))
        plans, losses = loop.PlanStream(partial(batches.plan_of, len(VALUES), 0)), []
        for done in loop.dispatches(config.train, plans, dispatch, mesh, loop_state, VALUES, KEYS.train):
            loop_state = done.loop_state
            losses.append(done.metrics.totals.nll)
        found.append((loop_state.state.params, np.concatenate(losses)))
    return found


# Predictions


def test_one_member_is_a_plain_model():
    config = config_of(1)
    assert type(model_of(config)) is BoundModel
    assert make_objective(config).func is teacher_forcing


@pytest.mark.parametrize(
    ("head", "objective"),
    [
        *((head, "direct") for head in ("point", "median", "normal", "student", "quantiles")),
        ("normal", "teacher_forcing"),
    ],
)
def test_a_prediction_is_the_average_of_the_members(head, objective):
    config = config_of(head=head, objective=objective, normalisation="mean")
    model, alone = (
        model_of(config),
        model_of(config_of(1, head=head, objective=objective, normalisation="mean")),
    )
    params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    xs = jnp.asarray(VALUES[None, :8])

    @partial(jax.jit, static_argnums=0)
    def read(model, params):
        carry, _ = model.unroll(params, model.init_carry(params, 1), xs)
        return model.readout_direct(params, carry) if num_direct(config) > 1 else model.readout(params, carry)

    found, each = read(model, params), [read(alone, member_of(params, number)) for number in range(S)]
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)
    np.testing.assert_allclose(point(found), np.mean([point(one) for one in each], axis=0), rtol=1e-5)
    if head == "normal":  # as the mixture
        squares = np.mean([np.square(one.scale) + np.square(one.mean) for one in each], axis=0)
        variance = squares - np.square(expected.mean)
        expected = expected._replace(scale=np.sqrt(variance))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)
    if head == "point":
        assert isinstance(found, Normal) and (found.scale == 1).all(), "half the squared error, as of one"


def test_forecasts_of_a_panel_are_those_of_each_series(monkeypatch):
    for kind in ("mlp", "gru"):
        model = model_of(config_of(model=kind, objective="direct"))
        params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
        series, origins = [VALUES, VALUES[:50]], [panels.Origins(9, 20), panels.Origins(9, 9)]
        monkeypatch.setattr("lmseq.panels.LARGEST", 5 * S * SMALL["tau"] * D)  # in blocks, of windows
        found = panels.panel_points(model, params, series, origins, max_horizon=4)
        every = rollout.k_step_points(model, params, VALUES, max_horizon=4, first_origin=9)
        np.testing.assert_allclose(found[0], every[:20], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1], every[:9], rtol=1e-4, atol=1e-5)


# Training


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_norm": 0.0},
        {"clip_norm": 0.05, "optimizer": "adamw", "weight_decay": 0.1, "accumulate_steps": 2},
        {"clip_norm": 0.05, "optimizer": "sgd", "momentum": 0.9, "objective": "direct"},
        {"model": "gru", "tau": 1},
    ],
    ids=str,
)
def test_a_member_is_trained_as_if_it_were_alone(settings):
    """Clipping looks at a member's gradient alone, not at all of them together."""
    config = config_of(**settings)
    start = jax.jit(model_of(config).init)(KEYS.init)
    [(found, losses)] = trained(config, start)
    alone = trained(config_of(1, **settings), *(member_of(start, number) for number in range(S)))
    for number, (params, _) in enumerate(alone):
        jax.tree.map(close, member_of(found, number), params)
    np.testing.assert_allclose(losses, np.mean([each for _, each in alone], axis=0), rtol=1e-4)


def test_members_see_the_same_batches_with_noise_of_their_own():
    config = config_of(objective="input_noise", input_noise=1.0)
    model, alone = model_of(config), model_of(config_of(1))
    same = jax.tree.map(lambda leaf: jnp.stack([leaf] * S), alone.init(jax.random.key(0)))
    batch = take_batch(jnp.asarray(VALUES), jnp.array([3, 11]), jnp.full(2, 6), 6)
    step = StepInfo(jnp.int32(0), jax.random.key(1), jnp.array(True))
    objective = make_objective(config)

    @jax.jit
    @jax.grad
    def slopes_of(params):
        return objective(model, params, (), batch, step).minimised.nll

    slopes = jax.tree.leaves(slopes_of(same))
    assert all((slope[0] != slope[1]).any() for slope in slopes)


def test_a_training_goes_on_bit_for_bit_and_is_restored(tmp_path):
    """On eight devices, which share a batch out."""
    config = config_of(optimizer="adamw", weight_decay=0.1, objective="input_noise")
    model, objective = model_of(config), make_objective(config)
    train = partial(fit, model, VALUES, config.train, batches=batches_of(config), objective=objective)
    expected, _ = train()
    seen = []
    train(workdir=tmp_path, on_dispatch=seen.append, should_stop=lambda: len(seen) == 1)
    found, rest = train(workdir=tmp_path)
    assert [record["step"] for record in seen] == [3] and rest[-1]["step"] == 6
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    again = model_of(from_json(to_json(config), SeriesConfig))
    assert again == model, "as it is rebuilt for forecasts, which are then the same"
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path, again).params, expected)
    [(alone, _)] = trained(config, jax.jit(model.init)(KEYS.init))
    jax.tree.map(close, expected, alone)


def test_averages_of_several_seeds_are_trained_together():
    """An ensemble of ensembles, as an ablation makes it: what a seed alone gives."""
    config = config_of(clip_norm=0.05)
    model, objective = model_of(config), make_objective(config)
    found = fit_members(
        model, [VALUES], config.train, (0, 1), batches=batches_of(config), objective=objective
    )
    [(alone, _)] = trained(config, jax.jit(model.init)(KEYS.init))
    jax.tree.map(close, found[0], alone)
