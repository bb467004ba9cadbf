"""One model of many series: its windows, its forecasts, and what they are judged by."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.series import judging
from lmseq import rollout
from lmseq.config.knobs import from_flat
from lmseq.config.series import SeriesConfig, check
from lmseq.data.partition import Within, sliding
from lmseq.data.series import prepare
from lmseq.models.baselines import Drift
from lmseq.panels import Origins, panel_points
from tests.test_series_models import D, drawn, small

few = settings(max_examples=15)
LENGTHS = (23, 30, 17)
SERIES = [
    np.random.default_rng(n).normal(size=(length, D)).cumsum(axis=0).astype(np.float32)
    for n, length in enumerate(LENGTHS)
]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(1, 8),
    st.integers(0, 9),
)
def test_no_window_lies_in_two_series(lengths, num_steps, batch_size, seed):
    partition, total = Within(tuple(lengths)), sum(lengths)
    if max(lengths) <= num_steps:
        with pytest.raises(ValueError, match=f"expected more than {num_steps} points"):
            partition(total, num_steps, batch_size, seed, 0)
        return
    plan = partition(total, num_steps, batch_size, seed, 0)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    assert (owner[plan.starts] == owner[plan.starts + num_steps]).all()
    windows = [
        start
        for first, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True)
        for start in range(first, first + length - num_steps)
    ]
    if len(windows) % batch_size == 0:
        assert sorted(plan.starts.ravel()) == windows, "each window once"
    if len(lengths) == 1:
        expected = sliding(total, num_steps, batch_size, seed, 0)
        assert all((one == other).all() for one, other in zip(plan, expected, strict=True))


@pytest.mark.parametrize("name", ["mlp", "gru", "drift", "direct"])
@pytest.mark.parametrize("step", [1, 3])
def test_forecasts_of_a_panel_are_those_of_each_series(name, step):
    """Series of unequal lengths, with unequal numbers of origins; one of them has none."""
    if name == "drift":
        model, params = Drift(D), {}
    else:
        model, params = small("gru", 3) if name == "direct" else small(name)
    horizon = 4
    origins = [Origins(10, (length - horizon - 10) // step + 1, step) for length in LENGTHS[:2]] + [
        Origins(12, 0, step)
    ]
    found = panel_points(model, params, SERIES, origins, max_horizon=horizon)
    for values, each, points in zip(SERIES[:2], origins, found, strict=False):
        every = rollout.k_step_points(model, params, values, max_horizon=horizon, first_origin=10)
        np.testing.assert_allclose(points, every[::step][: each.count], rtol=1e-4, atol=1e-5)
    assert found[2].shape == (0, horizon, D)
    [alone] = panel_points(model, params, SERIES[1:2], origins[1:2], max_horizon=horizon)
    np.testing.assert_allclose(alone, found[1], rtol=1e-4, atol=1e-5)


def test_origins_lie_within_their_series():
    model, params = small("mlp")
    for bad in (Origins(0, 1), Origins(20, 5)):
        with pytest.raises(ValueError, match="expected origins after 1 to 23 values"):
            panel_points(model, params, SERIES[:1], [bad], max_horizon=2)


def test_blocks_do_not_change_forecasts(monkeypatch):
    for name in ("mlp", "gru"):
        model, params = small(name)
        origins = [Origins(8, 6) for _ in SERIES]
        whole = panel_points(model, params, SERIES, origins, max_horizon=3)
        with monkeypatch.context() as patch:
            patch.setattr("lmseq.panels.LARGEST", 64)
            parts = panel_points(model, params, SERIES, origins, max_horizon=3)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# From files to figures


def table(tmp_path, columns: dict[str, np.ndarray]):
    path = tmp_path / "load.csv"
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(repr, map(float, row))) for row in rows)]))
    return str(path)


def judged(**settings):
    config = check(from_flat(settings, SeriesConfig))
    panel = prepare(config)
    from lmseq.models.build import fit_at_once, model_of

    model = model_of(config, panel)
    return judging.judge(config, panel, model, fit_at_once(config, panel, model))


FLAGS = {
    "channels": "independent",
    "model": "linear",
    "tau": 5,
    "objective": "direct",
    "num_ahead": 4,
    "max_horizon": 4,
    "normalisation": "last",
    "ridge": 0.01,
    "period": 7,
}


def season(seed: int, length: int = 90) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=length)
    return 20 + 3 * np.sin(2 * np.pi * np.arange(length) / 7) + 0.3 * noise


def test_figures_are_their_definitions(tmp_path):
    columns = {"a": season(0), "b": 5 * season(1)}
    found = judged(series=table(tmp_path, columns), test_points=20, **FLAGS)
    figures = judging.summary(found)
    smapes, mases, squares, naive = [], [], [], []
    for values, points in zip(columns.values(), found.points, strict=True):
        assert points.shape == (17, 4, 1)
        targets = np.stack([values[70 + t : 74 + t] for t in range(17)])
        smapes.append(
            np.mean(200 * np.abs(targets - points[:, :, 0]) / (abs(targets) + abs(points[:, :, 0])))
        )
        unit = np.abs(values[7:70] - values[:63]).mean()
        mases.append(np.mean(np.abs(targets - points[:, :, 0])) / unit)
        squares.append(np.mean((targets - points[:, :, 0]) ** 2) / values[:70].std() ** 2)
        last = values[69 : 69 + 17, None]
        naive.append(np.mean(np.abs(targets - last)) / unit)
    assert figures["smape"] == pytest.approx(np.mean(smapes))
    assert figures["mase"] == pytest.approx(np.mean(mases))
    assert figures["test_mse"] == pytest.approx(np.mean(squares))
    assert figures["naive_mase"] == pytest.approx(np.mean(naive), rel=1e-5)
    assert (figures["num_series"], figures["num_origins"], figures["season"]) == (2, 34, 7)
    judging.tell(found)
    judging.write_tables(tmp_path, found)
    judging.draw(tmp_path, found)
    rows = (tmp_path / "series.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[1].startswith("a,") and rows[0].startswith("series,linear_smape,")
    assert len((tmp_path / "horizons.csv").read_text().splitlines()) == 5


def test_the_order_of_series_does_not_matter(tmp_path):
    columns = {"a": season(0), "b": 5 * season(1), "c": season(2)}
    one = judged(series=table(tmp_path, columns), **FLAGS)
    other = judged(series=table(tmp_path, dict(reversed(columns.items()))), **FLAGS)
    for points, again in zip(one.points, reversed(other.points), strict=True):
        np.testing.assert_allclose(points, again, rtol=1e-5)


def test_a_panel_of_one_series_is_that_series(tmp_path):
    """Columns that are the same series twice have the model and the forecasts of one."""
    twice = judged(series=table(tmp_path, {"a": season(0), "b": season(0)}), **FLAGS)
    once = judged(series=table(tmp_path, {"a": season(0)}), **FLAGS)
    for points in twice.points:
        np.testing.assert_allclose(points, once.points[0], rtol=1e-5)


def test_a_season_standardised_or_not_is_the_same_series(tmp_path):
    columns = {"a": season(0), "b": season(1)}
    path = table(tmp_path, columns)
    with_log = judged(series=path, log=True, standardise=False, **FLAGS)
    assert with_log.points[0].min() > 0
    for name in ("naive", "seasonal", "drift", "mean"):
        for figure in ("smape", "mase", "mse"):
            one, other = (
                getattr(each.errors[name], figure) for each in (with_log, judged(series=path, **FLAGS))
            )
            np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"max_horizon": 90},
            "expected max_horizon below the length of each series, a has 90 points, got 90",
        ),
        ({"tau": 80}, "2 of 2 series of load are too short for a window of the model, the first is 'a'"),
        ({"train_points": 80, "valid_points": 8, "test_points": 8}, "expected 96 points of a"),
        ({"ridge": -1.0}, "validation part"),
    ],
)
def test_what_a_panel_cannot_give(tmp_path, more, said):
    with pytest.raises(ValueError, match=said):
        judged(series=table(tmp_path, {"a": season(0), "b": season(1)}), **FLAGS | more)


def test_values_without_a_logarithm_are_named(tmp_path):
    columns = {"a": season(0), "b": season(1) * 0}
    with pytest.raises(ValueError, match=r"b, row 2, column 'b': expected values above 0 with --log, got 0"):
        judged(series=table(tmp_path, columns), log=True, **FLAGS)


@few
@given(st.integers(0, 20))
def test_a_carry_of_a_panel_has_seen_only_its_own_series(seed):
    """What other series hold moves nothing."""
    model, params = small("gru")
    params = drawn(jax.eval_shape(model.init, jax.random.key(0)))
    other = np.random.default_rng(seed).normal(size=(26, D)).astype(np.float32)
    origins = [Origins(11, 2), Origins(12, 3)]
    one = panel_points(model, params, [SERIES[0], SERIES[1]], origins, max_horizon=2)
    two = panel_points(model, params, [SERIES[0], other], origins, max_horizon=2)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5, atol=1e-6)
