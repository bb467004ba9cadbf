"""Rolling origins with a fit every so many of them: against fits that are made by hand."""

import dataclasses

import numpy as np
import pytest

from experiments.series import forecasts, judging, refitting
from lmseq.config.knobs import from_flat
from lmseq.config.series import SeriesConfig, check
from lmseq.data.prepared import SeriesSplit
from lmseq.data.series import prepare
from lmseq.models.build import fit_at_once, model_of
from lmseq.panels import Origins, panel_points, read_from

EVERY = 5
MAP = {"model": "linear", "tau": 2, "max_horizon": 3, "test_fraction": 0.2, "valid_fraction": 0.2}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A series that changes its ways halfway, and another beside it."""
    rng = np.random.default_rng(3)
    x = np.zeros((120, 2))
    for t in range(2, 120):
        x[t] = (0.9 if t < 90 else -0.7) * x[t - 1] + rng.normal(size=2)
    file = tmp_path_factory.mktemp("series") / "two.csv"
    np.savetxt(file, x, header="a,b", comments="", fmt="%.8f", delimiter=",")
    return str(file)


def made(path: str, **settings):
    config = check(from_flat(MAP | {"series": path, "refit_every": EVERY} | settings, SeriesConfig))
    panel = prepare(config)
    model = model_of(config, panel)
    return config, panel, model, fit_at_once(config, panel, model)


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": "a"},
        {"columns": "a", "objective": "direct", "num_ahead": 3, "ridge": 0.1, "normalisation": "last"},
        {"columns": "a", "ridge": -1.0},
    ],
)
def test_a_series_is_forecast_by_the_fit_to_all_that_came_before(path, settings):
    config, panel, model, params = made(path, **settings)
    found = forecasts.forecast(config, panel, model, params)
    series, first, horizon = panel.only, panel.only.split.test_start, 3
    ridge = config.model.ridge
    if ridge == -1:  # chosen on the validation part, once
        sizes = (config.model.tau, 1, config.model.normalisation)
        ridge = refitting.chosen_ridge(panel.members, *sizes)
    fixed = dataclasses.replace(config, model=dataclasses.replace(config.model, ridge=ridge))
    assert len(found.points) == 24 - horizon + 1 and len(found.one_step) == 24
    for place in range(24):
        end = first + place // EVERY * EVERY
        short = series._replace(split=SeriesSplit(end, end))
        by_hand = fit_at_once(fixed, panel._replace(members=(short,)), model)
        origin = [Origins(first + place, 1)]
        read = read_from(panel, origin, horizon)
        [[points]] = panel_points(model, by_hand, *read, max_horizon=horizon)
        expected = series.scaler.undo(points)
        np.testing.assert_allclose(found.one_step[place], expected[0], rtol=1e-5, atol=1e-5)
        if place < len(found.points):
            np.testing.assert_allclose(found.points[place], expected, rtol=1e-5, atol=1e-5)
    plain = dataclasses.replace(config, forecast=dataclasses.replace(config.forecast, refit_every=0))
    once = forecasts.forecast(plain, panel, model, params)
    assert forecasts.rmse(found.one_step, series.series.values[first:]) < forecasts.rmse(
        once.one_step, series.series.values[first:]
    ), "what changed its ways is learned"


def test_the_next_value_by_least_squares_in_numpy(path):
    """x_{t+1} = b + w_1 x_t + w_2 x_{t-1}, solved again before every fifth origin, in plain units."""
    config, panel, model, params = made(path, columns="a")
    found = forecasts.forecast(config, panel, model, params).one_step[:, 0]
    x, first = panel.only.series.values[:, 0], panel.only.split.test_start
    for place, value in enumerate(found):
        end = first + place // EVERY * EVERY
        rows = np.stack([x[1 : end - 1], x[: end - 2], np.ones(end - 2)], axis=1)
        weights = np.linalg.lstsq(rows, x[2:end])[0]
        now = first + place
        assert value == pytest.approx(weights @ [x[now - 1], x[now - 2], 1.0], abs=1e-4)


def test_series_of_a_panel_are_refitted_together(path):
    """The first so many origins of each by one fit to what came before these in all of them."""
    config, panel, model, params = made(path, channels="independent", ridge=0.01, origin_step=2)
    found = judging.judge(config, panel, model, params)
    step = 2 * EVERY
    for stretch in range(3):
        ends = [each.split.test_start + stretch * step for each in panel.members]
        pairs = zip(panel.members, ends, strict=True)
        short = tuple(each._replace(split=SeriesSplit(end, end)) for each, end in pairs)
        by_hand = fit_at_once(config, panel._replace(members=short), model)
        origins = [Origins(end, 1) for end in ends]
        first = panel_points(model, by_hand, *read_from(panel, origins, 3), max_horizon=3)
        for member, points, expected in zip(panel.members, found.points, first, strict=True):
            if stretch * EVERY < len(points):
                np.testing.assert_allclose(
                    points[stretch * EVERY], member.scaler.undo(expected[0]), rtol=1e-5, atol=1e-5
                )


def test_a_stretch_is_cut_at_the_last_origin_of_each_series():
    origins = [Origins(10, 7, 2), Origins(5, 3, 2), Origins(4, 0, 2)]
    kept = refitting.Stretch({}, origins).until([16, 9, 4])
    assert [each.count for each in kept.origins] == [4, 3, 0]


def test_only_what_is_fitted_at_once_is_refitted():
    for settings in ({"model": "mlp"}, {"model": "linear", "fit": "gradient"}, {"model": "seasonal"}):
        with pytest.raises(ValueError, match=r"refit_every=2 does nothing here: .*closed form"):
            check(from_flat(settings | {"refit_every": 2}, SeriesConfig))
    with pytest.raises(ValueError, match="refit_every of at least 0"):
        check(from_flat({"model": "linear", "refit_every": -1}, SeriesConfig))
