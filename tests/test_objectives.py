"""Objectives of series against loops; the plan of segments; settings, of which none is dead."""

import ast
import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq import config as configs
from lmseq.config import from_flat
from lmseq.data.partition import sliding, take_batch
from lmseq.models.build import build_series_model
from lmseq.series_config import (
    ObjectiveConfig,
    SeriesConfig,
    SeriesModelConfig,
    check_series,
    is_file,
    num_direct,
    trains,
)
from lmseq.training import objectives
from lmseq.training.step import Step
from tests.test_series_models import D, small

TAU, N, K, B = 3, 4, 3, 2
VALUES = jnp.asarray(np.random.default_rng(2).normal(size=(40, D)), jnp.float32)


def batch_of(ahead: int):
    length = TAU - 1 + N + ahead - 1
    return take_batch(VALUES, jnp.array([3, 11]), jnp.full(B, length), length)


def loss_of(objective, model, params, batch, number: int = 0, seed: int = 0):
    step = Step(jnp.array(number), jax.random.key(seed), jnp.array(True))
    return objective(params, model, (), batch, step)[0]


def log_density(prediction, target) -> float:
    z = (np.asarray(target, np.float64) - np.asarray(prediction.mean)) / np.asarray(prediction.scale)
    return float((-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - np.log(np.asarray(prediction.scale))).sum())


def by_a_loop(model, params, batch, ahead: int) -> float:
    """From each origin that has tau values before it, `ahead` steps on the model's own means."""
    terms = []
    for row in range(B):
        for origin in range(TAU - 1, TAU - 1 + N):
            carry = model.init_carry(params, 1)
            for x in batch.inputs[row, : origin + 1]:
                carry = model.update(params, carry, x[None])
            for k in range(ahead):
                prediction = model.readout(params, carry)
                terms.append(log_density(prediction, batch.targets[row, origin + k]))
                carry = model.update(params, carry, prediction.mean)
    return -float(np.mean(terms))


@pytest.mark.parametrize("name", ["mlp", "linear, normal", "gru, normal", "lstm"])
def test_one_step_and_several_by_a_loop(name):
    model, params = small(name)
    one = loss_of(partial(objectives.teacher_forcing, tau=TAU), model, params, batch_of(1))
    assert one == pytest.approx(by_a_loop(model, params, batch_of(1), 1), rel=1e-5)
    unrolled_one = partial(objectives.unrolled, tau=TAU, num_ahead=1)
    assert loss_of(unrolled_one, model, params, batch_of(1)) == pytest.approx(float(one), rel=1e-5)
    several = loss_of(partial(objectives.unrolled, tau=TAU, num_ahead=K), model, params, batch_of(K))
    assert several == pytest.approx(by_a_loop(model, params, batch_of(K), K), rel=1e-5)


def test_the_gradient_passes_through_own_predictions():
    """A linear map of one value: x, a x, a^2 x; the slope of the loss by differences."""
    model = build_series_model(SeriesModelConfig(model="linear", tau=1), 1)
    stream = jnp.asarray(np.linspace(0.5, 1.5, 8), jnp.float32)[:, None]
    batch = take_batch(stream, jnp.array([0]), jnp.array([4]), 4)
    loss = partial(objectives.unrolled, tau=1, num_ahead=K)

    def of(a):
        params = {"value_head": {"mean_kernel": a[None, None], "mean_bias": jnp.zeros(1)}}
        return loss_of(loss, model, params, batch)

    def exact(a: float) -> float:
        x = np.asarray(stream, np.float64)[:, 0]
        errors = [x[o + k] - a**k * x[o] for o in range(2) for k in range(1, K + 1)]
        return float(np.mean(0.5 * np.square(errors)))

    slope = (exact(0.8 + 1e-6) - exact(0.8 - 1e-6)) / 2e-6
    assert jax.grad(of)(jnp.float32(0.8)) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("name", ["mlp", "gru, normal"])
def test_direct_by_a_loop(name):
    model, params = small(name, num_direct=K)
    batch, terms = batch_of(K), []
    for row in range(B):
        for origin in range(TAU - 1, TAU - 1 + N):
            inputs = batch.inputs[row : row + 1, : origin + 1]
            carry = model.unroll(params, model.init_carry(params, 1), inputs)[0]
            mean, scale = model.readout_direct(params, carry)
            for k in range(K):
                at = type(model.readout(params, carry))(mean[0, k], scale[0, k])
                terms.append(log_density(at, batch.targets[row, origin + k]))
    found = loss_of(partial(objectives.direct, tau=TAU, num_ahead=K), model, params, batch)
    assert found == pytest.approx(-np.mean(terms), rel=1e-5)


def test_scheduled_sampling_between_its_ends():
    model, params = small("gru")
    batch = batch_of(1)
    forced = loss_of(partial(objectives.teacher_forcing, tau=TAU), model, params, batch)
    scheduled = partial(objectives.scheduled_sampling, tau=TAU, num_train_steps=10)
    assert loss_of(partial(scheduled, rate=1.0), model, params, batch) == pytest.approx(
        float(forced), rel=1e-5
    )
    # At the end, at rate 1, every input after the first tau is the model's own.
    terms = []
    for row in range(B):
        carry, own = model.init_carry(params, 1), None
        for t in range(batch.inputs.shape[1]):
            x = batch.inputs[row, t][None] if t < TAU else own
            carry = model.update(params, carry, x)
            prediction = model.readout(params, carry)
            own = prediction.mean
            if t >= TAU - 1:
                terms.append(log_density(prediction, batch.targets[row, t]))
    found = loss_of(partial(scheduled, rate=1.0), model, params, batch, number=10)
    assert found == pytest.approx(-np.mean(terms), rel=1e-5)
    halfway = loss_of(partial(scheduled, rate=1.0), model, params, batch, number=5)
    assert abs(halfway - found) > 1e-4 < abs(halfway - forced)


def test_no_gradient_through_what_is_fed_back():
    """One value, x -> a x, all fed back: each term differentiates as if its input were a constant."""
    model = build_series_model(SeriesModelConfig(model="linear", tau=1), 1)
    stream = jnp.asarray(np.linspace(0.5, 1.5, 8), jnp.float32)[:, None]
    batch = take_batch(stream, jnp.array([0]), jnp.array([3]), 3)
    loss = partial(objectives.scheduled_sampling, tau=1, rate=1.0, num_train_steps=1)

    def of(a):
        params = {"value_head": {"mean_kernel": a[None, None], "mean_bias": jnp.zeros(1)}}
        return loss_of(loss, model, params, batch, number=1)

    a, x = 0.8, np.asarray(stream, np.float64)[:, 0]
    fed = [x[0], a * x[0], a * a * x[0]]
    slope = np.mean([-(x[t + 1] - a * fed[t]) * fed[t] for t in range(3)])
    assert jax.grad(of)(jnp.float32(a)) == pytest.approx(slope, rel=1e-5)


def test_noise_is_on_the_inputs_alone_and_fresh():
    model, params = small("mean")
    noisy = partial(objectives.teacher_forcing, tau=TAU, noise=0.5)
    clean = loss_of(partial(objectives.teacher_forcing, tau=TAU), model, params, batch_of(1))
    assert loss_of(noisy, model, params, batch_of(1)) == clean  # a model that reads no input sees none
    model, params = small("mlp")
    seen = [float(loss_of(noisy, model, params, batch_of(1), seed=seed)) for seed in (0, 0, 1)]
    assert seen[0] == seen[1] != seen[2]


OBJECTIVES = get_args(ObjectiveConfig.__dataclass_fields__["objective"].type)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_segment_has_what_its_objective_needs_and_no_more(name):
    config = from_flat({"objective": name, "tau": TAU, "num_steps": N, "num_ahead": K}, SeriesConfig)
    length = objectives.segment_length(config)
    model, params = small("mlp", num_direct=num_direct(config))
    objective = objectives.make_objective(config)
    whole = take_batch(VALUES, jnp.array([3, 11]), jnp.full(B, length), length)

    def changed(t: int) -> bool:
        batch = whole._replace(targets=whole.targets.at[:, t].add(1.0))
        return bool(loss_of(objective, model, params, batch) != loss_of(objective, model, params, whole))

    assert [changed(t) for t in range(length)] == [t >= TAU - 1 for t in range(length)]


# Segments


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
def test_every_start_once_an_epoch(num_points, num_steps, batch_size, seed, epoch):
    if num_points <= num_steps:
        with pytest.raises(ValueError, match="give a longer series"):
            sliding(num_points, num_steps, batch_size, seed, epoch)
        return
    plan = sliding(num_points, num_steps, batch_size, seed, epoch)
    starts, count = plan.starts.reshape(-1), num_points - num_steps
    assert starts.min() >= 0 and starts.max() + num_steps < num_points
    assert plan.resets.all() and (plan.lengths == num_steps).all()
    if count >= batch_size:
        assert len(set(starts.tolist())) == starts.size == count - count % batch_size
    else:
        assert set(starts.tolist()) == set(range(count)) and starts.size == batch_size
    np.testing.assert_array_equal(sliding(num_points, num_steps, batch_size, seed, epoch).starts, plan.starts)


def test_epochs_and_seeds_differ():
    starts = [sliding(300, 5, 4, seed, epoch).starts for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all((starts[i] != starts[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))


# Settings

OUT_OF_RANGE = [
    *({name: 0} for name in ("tau", "num_steps", "batch_size", "hidden_size", "num_layers", "max_horizon")),
    *({name: 0} for name in ("num_points", "num_train_steps")),
    *({name: -1} for name in ("period", "seed")),
    {"objective": "direct", "num_ahead": 0},
    {"head": "normal", "num_paths": 0},
    {"objective": "scheduled_sampling", "sampling_rate": 1.5},
    {"objective": "scheduled_sampling", "sampling_rate": math.nan},
    {"objective": "input_noise", "input_noise": -0.1},
    {"valid_fraction": 1.0},
    {"test_fraction": math.nan},
    {"batch_size": 9, "host_devices": 2},
    {"hidden_size": 10**9},
]
IDLE = [
    {"columns": "a"},
    {"time_column": "t"},
    {"series": "nile", "num_points": 50},
    {"coefficients": "0.5"},
    {"model": "linear", "hidden_size": 5},
    {"model": "mean", "num_layers": 1},
    {"model": "gru", "activation": "relu"},
    {"model": "gru", "residual": True},
    {"fit": "gradient"},
    {"model": "drift", "head": "normal"},
    {"model": "mean", "objective": "direct"},
    {"model": "linear", "objective": "unrolled"},
    {"num_ahead": 4},
    {"sampling_rate": 0.1},
    {"input_noise": 0.2},
    {"num_paths": 7},
    {"weight_decay": 0.1},
]


@pytest.mark.parametrize("settings", OUT_OF_RANGE + IDLE, ids=str)
def test_settings_out_of_range_or_idle_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected|does nothing|needs a model"):
        check_series(from_flat(settings, SeriesConfig))


def test_the_defaults_are_fine_and_survive_json():
    config = check_series(SeriesConfig())
    assert configs.from_json(configs.to_json(config), SeriesConfig) == config
    assert trains(config) and not is_file(config.data)
    assert not trains(from_flat({"model": "linear"}, SeriesConfig))
    assert trains(from_flat({"model": "linear", "fit": "gradient"}, SeriesConfig))


def test_every_field_is_read_somewhere():
    """As an attribute, in experiments/, in training/, or where models are built."""
    root = Path(__file__).resolve().parent.parent
    files = [*root.glob("experiments/*.py"), root / "lmseq/series_config.py", root / "lmseq/models/build.py"]
    files += [root / "lmseq/training/objectives.py", *root.glob("lmseq/training/*.py")]
    found = set()
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checks = {"check_series"}  # which reads every field, so does not count
        bodies = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name not in checks
        ]
        for node in (inner for body in bodies for inner in ast.walk(body)):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
    fields = {f.name for s in configs.sections(SeriesConfig).values() for f in dataclasses.fields(s)}
    assert fields - found == set()
