"""Predictions of values: densities against scipy, draws, quantiles, gradients at extremes, heads."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmseq import contract, rollout, sampling
from lmseq.calibration import coverage, pinball
from lmseq.config.series import SeriesModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import sliding
from lmseq.models.build import build_series_model
from lmseq.predictions import averaged, point, quantiles, rescaled
from lmseq.training.fit import fit
from lmseq.training.job import Batches
from lmseq.training.objectives import teacher_forcing
from lmseq.types import LEVELS, Laplace, NegativeBinomial, Normal, Quantiles, StudentT
from tests.test_series_models import drawn

RNG = np.random.default_rng(0)


def floats(*parts):
    return [jnp.asarray(part, jnp.float32) for part in parts]


MEAN, SCALE = RNG.normal(size=(4, 2)), RNG.uniform(0.1, 3.0, (4, 2))
FREEDOM = RNG.uniform(2.1, 30.0, (4, 2))
EDGES = np.sort(RNG.normal(size=(4, 2, 5)), axis=-1)
ALL = [
    Normal(*floats(MEAN, SCALE)),
    StudentT(*floats(MEAN, SCALE, FREEDOM)),
    Quantiles(*floats(EDGES)),
    Laplace(*floats(MEAN, SCALE)),
]
each = pytest.mark.parametrize("prediction", ALL, ids=lambda each: type(each).__name__)


def test_the_density_of_student_is_that_of_scipy():
    x = 3 * RNG.normal(size=(4, 2))
    expected = stats.t.logpdf(x, FREEDOM, MEAN, SCALE).sum(axis=-1)
    np.testing.assert_allclose(contract.log_prob(ALL[1], jnp.float32(x)), expected, rtol=1e-4, atol=1e-4)


def test_the_density_of_the_median_is_that_of_scipy():
    x = 3 * RNG.normal(size=(4, 2))
    expected = stats.laplace.logpdf(x, MEAN, SCALE).sum(axis=-1)
    np.testing.assert_allclose(contract.log_prob(ALL[3], jnp.float32(x)), expected, rtol=1e-4, atol=1e-4)


def test_of_quantiles_it_is_minus_the_pinball_loss():
    x = RNG.normal(size=(4, 2))
    expected = -pinball(EDGES, x, LEVELS).sum(axis=(-1, -2))
    np.testing.assert_allclose(contract.log_prob(ALL[2], jnp.float32(x)), expected, rtol=1e-4, atol=1e-5)


@each
def test_draws_follow_the_quantiles(prediction):
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.vmap(lambda key: sampling.draw(key, prediction))(keys))
    edges = quantiles(prediction, LEVELS)
    share = (drawn[..., None] <= edges).mean(axis=0)
    np.testing.assert_allclose(share, np.broadcast_to(LEVELS, share.shape), atol=0.015)
    np.testing.assert_allclose(point(prediction), edges[..., 2], rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("levels", [(0.0,), (0.5, 1.0), (float("nan"),)])
def test_a_level_is_between_0_and_1(prediction, levels):
    with pytest.raises(ValueError, match="levels of quantiles between 0 and 1"):
        quantiles(prediction, levels)


@jax.jit
def slopes(mean, scale, x):
    def loss(mean, scale):
        freedom = jnp.full_like(mean, 2.0001)
        both = contract.log_prob(StudentT(mean, scale, freedom), x)
        values = mean[..., None] + scale[..., None] * jnp.linspace(-2.0, 2.0, 5)[None, None]
        return jnp.sum(both + contract.log_prob(Quantiles(values), x))

    return jax.grad(loss, argnums=(0, 1))(mean, scale)


@given(st.floats(-1e15, 1e15), st.floats(-1e15, 1e15), st.sampled_from((1e-4, 1.0, 1e6)))
def test_slopes_are_finite_at_extremes(mean, x, scale):
    assert all(np.isfinite(slopes(*floats([[mean]], [[scale]], [[x]]))).ravel())


def trained(head: str, x: np.ndarray):
    """A linear model of one lag with a head, fitted by gradient."""
    config = SeriesModelConfig(model="linear", fit="gradient", tau=1, head=head)
    model = build_series_model(config, 1)
    train = TrainConfig(num_train_steps=400, learning_rate=2e-2, steps_per_dispatch=400)
    objective = partial(teacher_forcing, tau=1)
    return model, fit(model, x, train, batches=Batches(64, 64, sliding), objective=objective).params


def test_quantiles_of_an_autoregression_cover_what_they_say():
    noise, x = RNG.normal(size=12_000), np.zeros((12_000, 1), np.float32)
    for t in range(1, len(x)):
        x[t] = 0.7 * x[t - 1] + 0.5 * noise[t]
    model, params = trained("quantiles", x[:8000])
    _, found = model.unroll(params, model.init_carry(params, 1), jnp.asarray(x[None, 8000:-1]))
    low, high = (np.asarray(found.values[0, :, 0, place]) for place in (1, 3))
    target, count = x[8001:, 0], len(x) - 8001
    # Wider than the binomial interval of 3,999 targets by the error of a fit to 8,000 points.
    assert abs(coverage(low, high, target) - 0.8) < 4 * np.sqrt(0.8 * 0.2 * (1 / count + 1 / 8000))
    expected = 0.7 * x[8000:-1] + 0.5 * stats.norm.ppf(LEVELS)
    assert np.sqrt(np.mean((np.asarray(found.values[0, :, 0]) - expected) ** 2)) < 0.05


@partial(jax.jit, static_argnums=0)
def five_steps(model, params, xs):
    carry, predictions = model.unroll(params, model.init_carry(params, 1), xs)
    return rollout.rollout(model, params, carry, 5), predictions


@pytest.mark.parametrize("head", ["point", "normal", "student", "counts", "quantiles"])
@pytest.mark.parametrize("kind", ["linear", "mlp", "gru"])
def test_every_head_predicts_recursively_and_directly(kind, head):
    """Both to 5 steps, in order and finite; a direct head of 3 begins with what it reads out."""
    config = SeriesModelConfig(model=kind, tau=2, hidden_size=4, num_layers=1, head=head, fit="gradient")
    xs = jnp.asarray(RNG.normal(size=(1, 6, 2)), jnp.float32)
    for num_direct in (1, 3):
        model = build_series_model(config, 2, num_direct=num_direct)
        params = drawn(jax.eval_shape(model.init, jax.random.key(1)))
        points, predictions = five_steps(model, params, xs)
        assert points.shape == (1, 5, 2) and np.isfinite(points).all()
        np.testing.assert_allclose(points[:, 0], point(predictions)[:, -1], rtol=1e-5, atol=1e-6)
        edges = quantiles(predictions, LEVELS)
        least = 0 if head == "counts" else 1e-12  # several quantiles may be one count
        assert (np.diff(edges, axis=-1) >= least).all(), "quantiles never cross"


# Counts

means, dispersions = st.floats(1e-3, 1e4), st.floats(1e-4, 1e2)


def counts_of(mean: float, dispersion: float) -> NegativeBinomial:
    return NegativeBinomial(*floats([[mean]], [[dispersion]]))


def oracle(mean: float, dispersion: float):
    """Scipy's, of the numbers that float32 has."""
    mean, number = float(np.float32(mean)), 1 / float(np.float32(dispersion))
    return stats.nbinom(number, number / (number + mean))


@given(means, dispersions, st.one_of(st.integers(0, 30), st.integers(0, 20_000)))
def test_the_probability_of_a_count_is_that_of_scipy(mean, dispersion, x):
    found = float(counts_log_prob(counts_of(mean, dispersion), jnp.float32([[x]]))[0])
    assert found == pytest.approx(oracle(mean, dispersion).logpmf(x), rel=1e-3, abs=1e-4)


counts_log_prob = jax.jit(contract.log_prob)


@pytest.mark.parametrize(("mean", "dispersion"), [(0.3, 2.0), (5.0, 0.5), (40.0, 1e-4)])
def test_the_probabilities_of_counts_sum_to_one(mean, dispersion):
    x = jnp.arange(400, dtype=jnp.float32)[:, None]
    prediction = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, x.shape), counts_of(mean, dispersion))
    assert np.exp(counts_log_prob(prediction, x)).sum() == pytest.approx(1.0, abs=1e-4)


@given(means, st.floats(1e-3, 10.0), st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4))
def test_quantiles_of_counts_are_those_of_scipy(mean, dispersion, levels):
    found = quantiles(counts_of(mean, dispersion), levels)[0, 0]
    known = oracle(mean, dispersion)
    np.testing.assert_allclose(found, known.ppf(levels), atol=1 + 1e-9, rtol=1e-12)
    assert (known.cdf(found) >= np.array(levels) - 1e-9).all()
    assert (known.cdf(found - 1) < np.array(levels) + 1e-9).all()


def test_draws_of_counts_are_counts():
    prediction = NegativeBinomial(*floats(np.full((40_000, 1), 5.0), np.full((40_000, 1), 0.5)))
    drawn_ = np.asarray(sampling.draw(jax.random.key(0), prediction))
    assert (drawn_ == np.floor(drawn_)).all() and (drawn_ >= 0).all()
    assert drawn_.mean() == pytest.approx(5.0, rel=0.03)
    assert drawn_.var() == pytest.approx(5 + 0.5 * 25, rel=0.05)


def test_counts_are_brought_to_another_size_and_averaged():
    one = NegativeBinomial(*floats([[2.0]], [[0.5]]))
    assert rescaled(one, *floats([[0.0]], [[10.0]])) == (20.0, 0.5)
    both = NegativeBinomial(*floats([[[1.0]], [[3.0]]], [[[0.2]], [[0.4]]]))
    np.testing.assert_allclose(jax.tree.leaves(averaged(both)), [[[2.0]], [[0.3]]], rtol=1e-6)


@jax.jit
def slopes_of_counts(mean, dispersion, x):
    def loss(mean, dispersion):
        return jnp.sum(contract.log_prob(NegativeBinomial(mean, dispersion), x))

    return jax.grad(loss, argnums=(0, 1))(mean, dispersion)


@given(st.floats(1e-4, 1e6), st.floats(1e-4, 1e4), st.one_of(st.just(0), st.integers(0, 10**6)))
def test_slopes_of_counts_are_finite(mean, dispersion, x):
    assert all(np.isfinite(slopes_of_counts(*floats([[mean]], [[dispersion]], [[x]]))).ravel())
