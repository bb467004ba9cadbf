"""From the config of a series to its model and, where no steps are needed, its parameters."""

from functools import partial

import jax
import numpy as np
import pytest

from lmseq.config.knobs import from_flat
from lmseq.config.language_model import ModelConfig
from lmseq.config.series import BASELINES, SeriesConfig
from lmseq.data.series import prepare
from lmseq.models.build import build_model, fit_at_once, model_of
from lmseq.models.linear import fit_least_squares
from lmseq.scoring import score_stream

make = partial(from_flat, kind=SeriesConfig)
DATA = {"series": "trend_and_season", "num_points": 200}


@pytest.mark.parametrize("name", [*BASELINES, "linear"])
def test_models_that_need_no_steps(name):
    config = make(DATA | {"model": name})
    prepared = prepare(config)
    model = model_of(config, prepared)
    params = fit_at_once(config, prepared, model)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert np.isfinite(score_stream(model, params, prepared.only.values)).all()


def test_the_season_is_the_series_own_or_the_configs():
    assert [
        model_of(config, prepare(config)).period
        for config in (make(DATA | {"model": "seasonal"}), make(DATA | {"model": "seasonal", "period": 7}))
    ] == [24, 7]


def test_least_squares_of_the_training_part():
    config = make(DATA | {"model": "linear", "tau": 3, "objective": "direct", "num_ahead": 2})
    prepared = prepare(config)
    params = fit_at_once(config, prepared, model_of(config, prepared))
    expected = fit_least_squares(prepared.train, 3, "point", 2)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_initial_parameters_in_a_range():
    """Every leaf is uniform there, biases too, and no two are alike."""
    plain = build_model(ModelConfig(model="lstm", hidden_size=32, embedding_size=16), 50)
    model = build_model(ModelConfig(model="lstm", hidden_size=32, embedding_size=16, init_range=0.2), 50)
    params = model.init(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(plain.init(jax.random.key(0)))
    drawn = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert np.abs(drawn).max() <= 0.2 and np.unique(drawn).size > 0.99 * drawn.size
    ends = (np.sort(drawn) + 0.2) / 0.4
    assert np.abs(ends - np.linspace(0, 1, drawn.size)).max() < 1.63 / drawn.size**0.5  # Kolmogorov, 1 %
