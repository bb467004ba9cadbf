"""Objectives of series against loops; the plan of segments."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.knobs import from_flat
from lmseq.config.series import SeriesConfig, check, num_direct, segment_length
from lmseq.data.partition import sliding, take_batch
from lmseq.models.build import build_series_model
from lmseq.training import objectives
from lmseq.training.gradient import StepInfo
from tests.test_series_models import D, advance, drawn, small

TAU, N, K, B = 3, 4, 3, 2
VALUES = jnp.asarray(np.random.default_rng(2).normal(size=(40, D)), jnp.float32)
make = partial(from_flat, kind=SeriesConfig)


def take(length: int):
    return take_batch(VALUES, jnp.array([3, 11]), jnp.full(B, length), length)


def batch_of(ahead: int):
    return take(TAU - 1 + N + ahead - 1)


@partial(jax.jit, static_argnums=(0, 1))
def run(objective, model, params, batch, number, seed):
    step = StepInfo(number, jax.random.key(seed), jnp.array(True))
    minimised = objective(model, params, (), batch, step).minimised
    return minimised.nll / minimised.count


def loss_of(objective, model, params, batch, number: int = 0, seed: int = 0) -> float:
    return float(run(objective, model, params, batch, number, seed))


forced = partial(objectives.teacher_forcing, tau=TAU)
noisy = partial(objectives.teacher_forcing, tau=TAU, noise=0.5)
several = partial(objectives.unrolled, tau=TAU, num_ahead=K)
scheduled = partial(objectives.scheduled_sampling, tau=TAU, rate=1.0, num_train_steps=10)


def log_density(mean, scale, target) -> float:
    mean, scale, target = (np.asarray(part, np.float64) for part in (mean, scale, target))
    return float((-0.5 * ((target - mean) / scale) ** 2 - 0.5 * math.log(2 * math.pi) - np.log(scale)).sum())


def by_a_loop(model, params, batch, ahead: int) -> float:
    """From each origin that has tau values before it, `ahead` steps on the model's own means."""
    terms = []
    for row in range(B):
        seen = model.init_carry(params, 1)
        for origin in range(TAU - 1 + N):
            seen, prediction = advance(model, params, seen, batch.inputs[row, origin][None])
            carry = seen
            for k in range(ahead if origin >= TAU - 1 else 0):
                terms.append(log_density(*prediction, batch.targets[row, origin + k]))
                carry, prediction = advance(model, params, carry, prediction.mean)
    return -float(np.mean(terms))


def test_teacher_forcing_over_windows_cut_by_hand():
    model, params = small("linear, normal")
    head = {name: np.asarray(leaf, np.float64) for name, leaf in params["value_head"].items()}
    terms, x = [], np.asarray(VALUES, np.float64)
    for start in (3, 11):
        for first in range(start, start + N):
            window = x[first : first + TAU].reshape(-1)
            scale = np.log1p(np.exp(window @ head["scale_kernel"] + head["scale_bias"])) + 1e-4
            mean = window @ head["mean_kernel"] + head["mean_bias"]
            terms.append(log_density(mean, scale, x[first + TAU]))
    assert loss_of(forced, model, params, batch_of(1)) == pytest.approx(-np.mean(terms), rel=1e-4)


@pytest.mark.parametrize("name", ["mlp", "linear, normal", "gru, normal", "lstm"])
def test_one_step_and_several_by_a_loop(name):
    model, params = small(name)
    one = loss_of(forced, model, params, batch_of(1))
    assert one == pytest.approx(by_a_loop(model, params, batch_of(1), 1), rel=1e-4)
    unrolled_one = partial(objectives.unrolled, tau=TAU, num_ahead=1)
    assert loss_of(unrolled_one, model, params, batch_of(1)) == pytest.approx(one, rel=1e-5)
    found = loss_of(several, model, params, batch_of(K))
    assert found == pytest.approx(by_a_loop(model, params, batch_of(K), K), rel=1e-4)


def linear_of_one(a):
    """x -> a x, and its parameters."""
    return {"value_head": {"mean_kernel": a[None, None], "mean_bias": jnp.zeros(1)}}


ONE = build_series_model(make({"model": "linear", "tau": 1}).model, 1)
LINE = np.linspace(0.5, 1.5, 8)


def slope_of(objective, a: float, length: int, number: int) -> float:
    stream = jnp.asarray(LINE, jnp.float32)[:, None]
    batch = take_batch(stream, jnp.array([0]), jnp.array([length]), length)
    return float(jax.grad(lambda a: run(objective, ONE, linear_of_one(a), batch, number, 0))(jnp.float32(a)))


@pytest.mark.parametrize("a", [0.8, -0.3, 1.2])
def test_the_gradient_passes_through_own_predictions(a):
    """a x, a^2 x, a^3 x: the slope of the loss by differences in float64."""

    def exact(a: float) -> float:
        errors = [LINE[o + k] - a**k * LINE[o] for o in range(2) for k in range(1, K + 1)]
        return float(np.mean(0.5 * np.square(errors)))

    slope = (exact(a + 1e-6) - exact(a - 1e-6)) / 2e-6
    assert slope_of(partial(objectives.unrolled, tau=1, num_ahead=K), a, 4, 0) == pytest.approx(
        slope, rel=1e-4
    )


def test_no_gradient_through_what_is_fed_back():
    """All inputs but the first are the model's own: each term differentiates as if they were constants."""
    a = 0.8
    fed = [LINE[0], a * LINE[0], a * a * LINE[0]]
    slope = np.mean([-(LINE[t + 1] - a * fed[t]) * fed[t] for t in range(3)])
    own = partial(objectives.scheduled_sampling, tau=1, rate=1.0, num_train_steps=1)
    assert slope_of(own, a, 3, 1) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", ["mlp", "gru, normal"])
def test_direct_by_a_loop(name):
    model, params = small(name, num_direct=K)
    batch, terms = batch_of(K), []
    for row in range(B):
        carry = model.init_carry(params, 1)
        for origin in range(TAU - 1 + N):
            carry, _ = advance(model, params, carry, batch.inputs[row, origin][None])
            mean, scale = model.readout_direct(params, carry)
            for k in range(K if origin >= TAU - 1 else 0):
                terms.append(log_density(mean[0, k], scale[0, k], batch.targets[row, origin + k]))
    found = loss_of(partial(objectives.direct, tau=TAU, num_ahead=K), model, params, batch)
    assert found == pytest.approx(-np.mean(terms), rel=1e-4)


def test_scheduled_sampling_between_its_ends():
    model, params = small("gru")
    batch, terms = batch_of(1), []
    true = loss_of(forced, model, params, batch)
    never = partial(objectives.scheduled_sampling, tau=TAU, rate=0.0, num_train_steps=10)
    assert loss_of(never, model, params, batch, number=10) == pytest.approx(true, rel=1e-5)
    assert loss_of(scheduled, model, params, batch, number=0) == pytest.approx(true, rel=1e-5)
    for row in range(B):  # at the end, at rate 1, every input after the first tau is the model's own
        carry, prediction = model.init_carry(params, 1), None
        for t in range(TAU - 1 + N):
            x = batch.inputs[row, t][None] if t < TAU else prediction.mean
            carry, prediction = advance(model, params, carry, x)
            if t >= TAU - 1:
                terms.append(log_density(*prediction, batch.targets[row, t]))
    own = -np.mean(terms)
    assert loss_of(scheduled, model, params, batch, number=10) == pytest.approx(own, rel=1e-4)
    halfway = {loss_of(scheduled, model, params, batch, number=5, seed=seed) for seed in range(5)}
    assert len(halfway) > 1 and abs(own - true) > 1e-4


def test_noise_is_on_the_inputs_alone_and_fresh():
    batch = batch_of(1)
    model, params = small("mean")  # reads no input, so sees no noise: the targets have none
    assert loss_of(noisy, model, params, batch) == loss_of(forced, model, params, batch)
    model, params = small("mlp")
    clean, seen = (
        loss_of(forced, model, params, batch),
        [loss_of(noisy, model, params, batch, seed=s) for s in (0, 0, 1)],
    )
    assert seen[0] == seen[1] != seen[2] and clean not in seen
    faint = partial(objectives.teacher_forcing, tau=TAU, noise=1e-6)
    assert loss_of(faint, model, params, batch) == pytest.approx(clean, rel=1e-4)
    none = partial(objectives.teacher_forcing, tau=TAU, noise=0.0)
    assert loss_of(none, model, params, batch) == clean


CASES = [
    *((name, K) for name in ("teacher_forcing", "unrolled", "scheduled_sampling", "input_noise", "direct")),
    ("unrolled", 1),
    ("direct", 2),
]


@pytest.mark.parametrize(("name", "ahead"), CASES)
def test_a_segment_has_what_its_objective_needs_and_no_more(name, ahead):
    """The last target counts, and the first tau - 1 do not."""
    settings = {"objective": name, "num_steps": N, "num_ahead": ahead, "tau": TAU, "hidden_size": 5}
    config = make(settings)
    if name in ("unrolled", "direct"):
        check(config)
    length, objective = segment_length(config), objectives.make_objective(config)
    assert length == TAU - 1 + N + (ahead - 1 if name in ("unrolled", "direct") else 0)
    model = build_series_model(config.model, D, num_direct=num_direct(config))
    params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    whole = take(length)
    before = loss_of(objective, model, params, whole)

    def changed(t: int) -> bool:
        batch = whole._replace(targets=whole.targets.at[:, t].add(1.0))
        return loss_of(objective, model, params, batch) != before

    assert [changed(t) for t in range(length)] == [t >= TAU - 1 for t in range(length)]
    if ahead == 1:
        assert before == pytest.approx(loss_of(forced, model, params, whole), rel=1e-5)


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
    assert plan.resets.all() and (plan.lengths == num_steps).all() and plan.starts.shape[1] == batch_size
    if count >= batch_size:
        assert len(set(starts.tolist())) == starts.size == count - count % batch_size
    else:
        assert set(starts.tolist()) == set(range(count)) and starts.size == batch_size
    np.testing.assert_array_equal(sliding(num_points, num_steps, batch_size, seed, epoch).starts, plan.starts)


def test_epochs_and_seeds_differ():
    starts = [sliding(300, 5, 4, seed, epoch).starts for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all((starts[i] != starts[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))
