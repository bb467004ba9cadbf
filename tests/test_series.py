"""From a config to a series: loaded, split by time, standardised."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.knobs import from_flat
from lmseq.config.series import SYNTHETIC, SeriesConfig, check, is_file
from lmseq.data import scaling, synthetic
from lmseq.data import series as s

make = partial(from_flat, kind=SeriesConfig)


def load_series(config: SeriesConfig):
    """The one series of a panel of one."""
    [series] = s.load_panel(config).series
    return series


# Loading


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_series_of_the_config_by_its_name(name):
    loaded = load_series(make({"series": name, "num_points": 80, "seed": 3}))
    assert loaded.name == name and len(loaded.values) == 80
    np.testing.assert_array_equal(
        loaded.values, synthetic.GENERATORS[name](np.random.default_rng(3), 80).values
    )


def test_coefficients_of_the_config():
    loaded = load_series(make({"series": "ar", "num_points": 80, "coefficients": "0.5, -0.2"}))
    expected = synthetic.autoregression(np.random.default_rng(0), 80, np.array([0.5, -0.2]))
    np.testing.assert_array_equal(loaded.values, expected.values)
    for text in ("0.5,x", "0.5,0_1", "0.5,", "0.5,nan"):
        with pytest.raises(ValueError, match=f"as numbers, got '{text}'"):
            load_series(make({"series": "ar", "coefficients": text}))


def test_columns_of_a_file(tmp_path):
    path = tmp_path / "load.csv"
    path.write_text("t,a,b\n" + "\n".join(f"{t},{t * t},{-t}" for t in range(20)))
    loaded = load_series(make({"series": str(path), "columns": "b, a", "time_column": "t"}))
    assert (loaded.name, loaded.columns) == ("load", ("b", "a"))
    np.testing.assert_array_equal(loaded.values, [[-t, t * t] for t in range(20)])


def test_names_of_columns_are_written_as_in_a_csv_file():
    assert s.read_names(' a, "b, c",,d e, $"f') == ("a", "b, c", "d e", '$"f')
    assert s.read_names("") == ()
    with pytest.raises(ValueError, match=r'expected --columns=a,"b, with a comma",..., got \'"a,b\''):
        s.read_names('"a,b')


@pytest.mark.parametrize("name", ["load.csv", "load.CSV", "load.data", "load", "./nile"])
def test_files_by_their_names_wherever_one_is(tmp_path, monkeypatch, name):
    """A config means the same in every folder; whether there is such a file is seen when it is read."""
    monkeypatch.chdir(tmp_path)
    config = check(make({"series": name, "columns": "x"}))
    with pytest.raises(ValueError, match="unknown series 'load'" if name == "load" else "there is none at"):
        load_series(config)
    (tmp_path / name).write_text("x\n1\n2\n")
    assert load_series(check(config)).values.tolist() == [[1], [2]]
    assert is_file(config.data) and not is_file(make({"series": "nile"}).data)


@pytest.mark.parametrize(
    "settings",
    [
        {"series": "laod", "columns": "a"},
        {"series": "noisy_sin", "num_points": 50},
        {"series": "arr", "coefficients": "0.5"},
        {"series": "x" * 5000, "missing": "previous"},
    ],
    ids=str,
)
def test_of_a_mistyped_name_the_name_is_said_to_be_wrong(settings):
    with pytest.raises(ValueError, match=r"^unknown series '.*expected one of noisy_sine, .*, or a CSV file"):
        load_series(check(make(settings)))


def test_the_nearest_name_is_suggested():
    with pytest.raises(ValueError, match=r"did you mean noisy_sine\?$"):
        load_series(make({"series": "noisy_sin"}))


def test_an_unknown_series_is_refused():
    with pytest.raises(ValueError, match=r"unknown series 'sine': expected one of noisy_sine, .*"):
        load_series(make({"series": "sine"}))


# From a config to values


def test_prepared_values_are_standardised_by_the_training_part():
    config = make({"series": "lorenz", "num_points": 300, "valid_fraction": 0.2, "period": 7})
    prepared = s.prepare(config).only
    assert prepared.split == (120, 180) and prepared.values.shape == (300, 3)
    assert prepared.series.period == 7 and prepared.values.dtype == np.float32
    np.testing.assert_array_equal(prepared.train, prepared.values[:120])
    np.testing.assert_allclose(prepared.train.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(prepared.train.std(axis=0), 1.0, atol=1e-5)
    np.testing.assert_allclose(prepared.scaler.undo(prepared.values), prepared.series.values, atol=1e-4)
    facts = prepared.facts()
    assert (facts["series"], facts["points"], facts["train_points"], facts["test_points"]) == (
        "lorenz",
        300,
        120,
        120,
    )


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"model": "mlp", "tau": 4, "num_steps": 16}, 20),
        ({"model": "mlp", "tau": 4, "num_steps": 16, "objective": "direct", "num_ahead": 5}, 24),
        ({"model": "linear", "tau": 4}, 9),
        ({"model": "linear", "tau": 4, "objective": "direct", "num_ahead": 5}, 13),
    ],
)
def test_a_training_part_must_be_long_enough(settings, least):
    assert s.least_points(make(settings), 1) == least
    total = round(least / 0.6)
    data = {"num_points": total, "test_fraction": (total - least) / total}
    assert s.prepare(make(settings | data)).only.split.train_end == least
    with pytest.raises(ValueError, match=f"expected at least {least} points to train on"):
        s.prepare(make(settings | {"num_points": total - 1, "test_fraction": (total - least) / (total - 1)}))


def test_interpolation_may_not_tell_what_comes(tmp_path):
    path = tmp_path / "holes.csv"
    rows = [f"{t},{'' if t == 80 else t * t % 7}" for t in range(100)]
    path.write_text("\n".join(["t,x", *rows]))
    settings = {"series": str(path), "columns": "x"}
    assert s.prepare(make(settings | {"missing": "previous"})).only.series.filled.sum() == 1
    with pytest.raises(ValueError, match="would tell the model what comes: choose --missing=previous"):
        s.prepare(make(settings | {"missing": "interpolate"}))


# Splits and units


@given(st.integers(3, 500), st.floats(0, 0.9), st.floats(0.05, 0.9))
def test_parts_in_order_of_time(num_points, valid, test):
    if valid + test >= 1:
        with pytest.raises(ValueError, match="sum below 1"):
            s.split_series(num_points, valid, test)
        return
    split = s.split_series(num_points, valid, test)
    assert 0 <= split.train_end <= split.test_start <= num_points
    assert abs(num_points - split.test_start - test * num_points) <= 0.5
    assert abs(split.test_start - split.train_end - valid * num_points) <= 0.5


def test_units_are_undone_whatever_the_level():
    rng = np.random.default_rng(0)
    x = np.stack([1e9 + rng.normal(size=500), 1e-6 * rng.normal(size=500)], axis=1)
    scaler = scaling.fit_scaler(x[:300], ("a", "b"))
    z = scaler.apply(x)
    assert z.dtype == np.float32 and np.abs(z[:300].mean(axis=0)).max() < 1e-3
    np.testing.assert_allclose(z[:300].std(axis=0), 1, rtol=1e-4)
    assert (np.abs(scaler.undo(z) - x) < 1e-6 * scaler.scale).all()


def test_a_constant_column_is_named():
    x = np.stack([np.arange(9.0), np.full(9, 0.1)], axis=1)
    with pytest.raises(ValueError, match="'b' is constant"):
        scaling.fit_scaler(x, ("a", "b"))


@pytest.mark.parametrize("unit", [1e-90, 1.0, -1e90])
def test_what_differs_by_rounding_only_is_constant(unit):
    with pytest.raises(ValueError, match="'a' is constant in the training part, but for rounding"):
        scaling.fit_scaler(np.array([[0.3], [0.1 + 0.2], [0.3]]) * unit, ("a",))


@given(st.integers(-90, 90), st.integers(0, 12))
def test_no_unit_is_too_small_or_too_large(exponent, level):
    """What varies is no constant, however small beside its level."""
    x = (10.0**level + np.random.default_rng(0).normal(size=(50, 1))) * 10.0**exponent
    z = scaling.fit_scaler(x, ("a",)).apply(x)
    np.testing.assert_allclose(z.std(), 1.0, rtol=1e-3)


@pytest.mark.parametrize("unit", [1e200, 1e308, 1e-200, 5e-324])
def test_what_cannot_be_squared_is_refused(unit):
    x = np.array([[1.0], [-1.0], [1.0]]) * unit
    with pytest.raises(ValueError, match=r"'a' is too large or varies too little.*another unit"):
        scaling.fit_scaler(x, ("a",))


def file_of(tmp_path, *values) -> dict:
    (tmp_path / "x.csv").write_text("\n".join(["x", *map(str, values)]))
    return {"series": str(tmp_path / "x.csv"), "model": "mean", "test_fraction": 0.4}


@pytest.mark.parametrize("far", [1e20, -1e60, 1e300])
def test_a_value_beyond_all_that_was_trained_on(tmp_path, far):
    with pytest.raises(ValueError, match=r"row 10, column 'x': the value lies more than 1e\+15 standard"):
        s.prepare(make(file_of(tmp_path, *range(8), far, 8)))


@pytest.mark.parametrize("values", [[1], [1, 2], [1, 2, 3]])
def test_a_few_points_are_too_few(tmp_path, values):
    with pytest.raises(ValueError, match="expected at least 2 points to train on"):
        s.prepare(make(file_of(tmp_path, *values)))


def test_a_test_part_of_nothing_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("t,x\n" + "\n".join(f"{t},{t if t < 6 else ''}" for t in range(10)))
    settings = {"series": str(tmp_path / "x.csv"), "time_column": "t", "missing": "previous", "model": "mean"}
    with pytest.raises(ValueError, match="no value that is not missing in the test part"):
        s.prepare(make(settings))


@pytest.mark.parametrize("model", ["mlp", "seasonal"])
def test_a_season_longer_than_the_training_part(model):
    settings = {"model": model, "num_points": 100}
    assert s.prepare(make(settings | {"period": 59})).only.series.period == 59
    with pytest.raises(
        ValueError, match="expected a period below the 60 points of the training part, got 60"
    ):
        s.prepare(make(settings | {"period": 60}))
