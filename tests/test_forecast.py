"""`experiments.forecast`: what comes next, from the run's own data and from other files, and mistakes."""

import csv
import json

import numpy as np
import pytest

from experiments.series import future, saved, spread, stages
from lmseq.config.knobs import from_flat
from lmseq.config.series import SeriesConfig, check
from lmseq.data.series import prepare
from lmseq.models.build import fit_at_once, model_of
from tests.pictures import is_drawn_on
from tests.scripts import refusal

RNG = np.random.default_rng(0)
DAYS = np.arange("2023-01-02", "2023-10-01", dtype="datetime64[D]")
SALES = 100 + 20 * np.sin(2 * np.pi * np.arange(len(DAYS)) / 7) + RNG.normal(size=len(DAYS))
MAP = {"model": "linear", "tau": 14, "objective": "direct", "num_ahead": 5, "max_horizon": 5, "ridge": 0.01}


def write(path, header, *columns, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *zip(*columns, strict=True)])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("forecast")
    write(path / "sales.csv", ["date", "sales"], DAYS, SALES)
    write(path / "two.csv", ["date", "sales", "visits"], DAYS, SALES, 2 * SALES + 1)
    write(path / "short.csv", ["date", "sales"], DAYS[:9], SALES[:9])
    weekdays = np.is_busday(DAYS)
    write(
        path / "shop.csv",
        ["Datum", "Umsatz"],
        [f"{day.astype(object):%d.%m.%Y}" for day in DAYS[weekdays]],
        [f"{value:.2f}".replace(".", ",") for value in SALES[weekdays]],
        delimiter=";",
    )
    write(path / "none.csv", ["name"], ["a", "b"])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, scripts, folder):
    """A linear map of the sales, with a validation part."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    flags = [f"--{name}={value}" for name, value in MAP.items()]
    file = f"--series={folder / 'sales.csv'}"
    scripts.summary("predict_series", file, *flags, "--valid_fraction=0.2", f"--workdir={workdir}")
    return workdir


def rows_of(path) -> list[dict[str, str]]:
    with (path / "forecast.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_the_end_of_the_runs_own_data(tmp_path, scripts, run):
    flags = [f"--run={run}", "--horizon=7", f"--workdir={tmp_path / 'next'}"]
    summary = scripts.summary("forecast", *flags)
    assert (summary["num_series"], summary["horizon"]) == (1, 7)
    rows = rows_of(tmp_path / "next")
    assert [row["time"] for row in rows] == [
        str(day) for day in DAYS[-1] + np.arange(1, 8).astype("timedelta64[D]")
    ]
    assert list(rows[0]) == ["series", "time", "mean", "q0.05", "q0.1", "q0.5", "q0.9", "q0.95"]
    values = np.array([[float(row[name]) for name in list(rows[0])[2:]] for row in rows])
    assert (np.diff(values[:, 1:], axis=1) > 0).all(), "quantiles are in order"
    expected = 100 + 20 * np.sin(2 * np.pi * (len(DAYS) + np.arange(7)) / 7)
    assert np.abs(values[:, 0] - expected).max() < 4
    is_drawn_on(tmp_path / "next" / "forecast.png")
    assert scripts.summary("forecast", *flags) == summary, "a finished one is reprinted"


def test_a_forecast_is_the_one_made_before_saving(run, folder):
    """To the bit: parameters, units and intervals all come back."""
    config = check(
        from_flat({"series": str(folder / "sales.csv"), "valid_fraction": 0.2, **MAP}, SeriesConfig)
    )
    panel = prepare(config)
    model = model_of(config, panel)
    params = fit_at_once(config, panel, model)
    intervals = spread.calibrate(panel, model, params, 5)
    end = [len(panel.only.values)]
    [before] = future.forecast_ahead(config, panel, model, params, intervals, 5, end)
    from experiments.forecast import ForecastOptions

    again = saved.prepare(ForecastOptions(run=str(run)))
    [after] = future.forecast_ahead(
        again.config, again.panel, again.model, again.params, again.intervals, 5, again.origins
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_file_with_weekends_left_out_and_decimal_commas(tmp_path, scripts, run, folder):
    flags = [
        f"--run={run}",
        f"--series={folder / 'shop.csv'}",
        "--horizon=5",
        f"--workdir={tmp_path / 'new'}",
    ]
    scripts.summary("forecast", *flags)
    rows = rows_of(tmp_path / "new")
    times = np.array([row["time"] for row in rows], "datetime64[D]")
    assert (
        len(times) == 5
        and np.is_busday(times).all()
        and times[0] == np.busday_offset(DAYS[-1], 1, "backward")
    )
    assert {row["series"] for row in rows} == {"shop"}


def test_several_columns_are_several_series(tmp_path, scripts, run, folder):
    flags = [f"--run={run}", f"--series={folder / 'two.csv'}", "--horizon=3", f"--workdir={tmp_path / 'two'}"]
    scripts.summary("forecast", *flags)
    rows = rows_of(tmp_path / "two")
    assert [row["series"] for row in rows] == ["sales"] * 3 + ["visits"] * 3
    mean = np.array([float(row["mean"]) for row in rows]).reshape(2, 3)
    np.testing.assert_allclose(mean[1], 2 * mean[0] + 1, rtol=1e-4)


def test_from_any_date(tmp_path, scripts, run):
    """What came after the origin is not seen, and is what the run itself was judged by."""
    at = 200
    flags = [f"--run={run}", f"--from={DAYS[at]}", f"--workdir={tmp_path / 'then'}"]
    scripts.summary("forecast", *flags)
    rows = rows_of(tmp_path / "then")
    assert rows[0]["time"] == str(DAYS[at]) and len(rows) == MAP["max_horizon"]
    mean = [float(row["mean"]) for row in rows]
    assert np.abs(mean - SALES[at : at + 5]).max() < 5


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "--run"),
        ("--run={folder}", "no config.json"),
        ("--run={run} --horizon=-1", "horizon"),
        ("--run={run} --columns=sales", "--columns is of another file"),
        ("--run={run} --series={folder}/short.csv", "at least 14 values"),
        ("--run={run} --series={folder}/none.csv", "no column of numbers"),
        ("--run={run} --series={folder}/missing.csv", "missing.csv"),
        ("--run={run} --from=2023-01-02", "--from after 2023-01-02"),
        ("--run={run} --from=2024-06-01", "up to 2023-10-01"),
        ("--run={run} --from=soon", "--from"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, scripts, run, folder, flags, says):
    given = flags.format(run=run, folder=folder).split()
    done = scripts.attempt("forecast", *given, f"--workdir={tmp_path / 'bad'}")
    assert says in refusal(done)[1] and not (tmp_path / "bad").exists()


def test_a_run_whose_intervals_are_damaged(tmp_path, run):
    for text in ("{}", "[1]", '{"levels": [0.5], "quantiles": "x", "num_scores": 1, "part": "validation"}'):
        (tmp_path / "intervals.json").write_text(text)
        with pytest.raises(ValueError, match=r"intervals\.json is damaged"):
            spread.read_intervals(tmp_path)
    with pytest.raises(ValueError, match=r"has no intervals\.json.*remove its summary\.json"):
        spread.read_intervals(tmp_path / "none")


def test_errors_of_a_map_that_was_fitted_again_are_not_its_own(tmp_path, folder):
    """Intervals of a refitted map are those of the one that had not seen the validation part."""
    found = []
    for refit in (False, True):
        settings = {**MAP, "ridge": -1.0, "refit": refit, "valid_fraction": 0.2}
        config = check(from_flat({"series": str(folder / "sales.csv"), **settings}, SeriesConfig))
        panel = prepare(config)
        prepared = stages.PreparedSeries(config, panel, model_of(config, panel))
        workdir = tmp_path / str(refit)
        workdir.mkdir()
        stages.keep(workdir, prepared, fit_at_once(config, panel, prepared.model))
        found.append(json.loads((workdir / "intervals.json").read_text()))
    assert found[0] == found[1] and found[0]["part"] == "validation"


def test_intervals_cover_what_comes(tmp_path):
    """Of a season with noise, four fifths of what came lie within the central 80 %, at every horizon."""
    values = 10 + np.sin(2 * np.pi * np.arange(3000) / 12) + 0.5 * np.random.default_rng(3).normal(size=3000)
    path = write(tmp_path / "noise.csv", ["x"], values)
    settings = {"series": str(path), "valid_fraction": 0.4, "test_fraction": 0.4, **MAP}
    config = check(from_flat(settings, SeriesConfig))
    panel = prepare(config)
    model = model_of(config, panel)
    params = fit_at_once(config, panel, model)
    intervals = spread.calibrate(panel, model, params, 5)
    assert intervals.part == "validation" and (np.diff(intervals.quantiles, axis=0) > 0).all()
    low, high = intervals.levels.index(0.1), intervals.levels.index(0.9)
    inside = []
    for origin in range(1800, 2990):
        [ahead] = future.forecast_ahead(config, panel, model, params, intervals, 5, [origin])
        came = values[origin : origin + 5, None]
        inside.append((ahead.quantiles[low] <= came) & (came <= ahead.quantiles[high]))
    np.testing.assert_allclose(np.mean(inside, axis=0), 0.8, atol=0.05)
