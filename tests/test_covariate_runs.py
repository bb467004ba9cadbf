"""Runs with covariates: from a file to a forecast of the time to come, and what is refused."""

import csv
import json

import numpy as np
import pytest

from experiments.forecast import ForecastOptions
from experiments.series import future, saved, spread
from lmseq.config.knobs import from_flat
from lmseq.config.series import SeriesConfig, check
from lmseq.data.series import prepare
from lmseq.models.build import fit_at_once, model_of
from tests.scripts import refusal

T, LATER, EFFECT, NOISE = 400, 12, 3.0, 0.3
DAYS = np.datetime64("2023-01-02") + np.arange(T + LATER)
RNG = np.random.default_rng(0)
PROMO = (RNG.random(T + LATER) < 0.3).astype(int)
SALES = 10 + EFFECT * PROMO + NOISE * RNG.normal(size=T + LATER)
MAP = {"model": "linear", "tau": 3, "objective": "direct", "num_ahead": 5, "max_horizon": 5, "ridge": 0.01}
ASKED = {"known_columns": "promo", "valid_fraction": 0.2}


def write(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("covariates")
    known = list(zip(DAYS, SALES, PROMO, strict=True))
    write(path / "shop.csv", ["day", "sales", "promo"], *known[:T])
    rest = [(day, "", promo) for day, _, promo in known[T:]]
    write(path / "planned.csv", ["day", "sales", "promo"], *known[:T], *rest)
    write(path / "plan.csv", ["day", "promo"], *((day, promo) for day, _, promo in rest))
    write(path / "hole.csv", ["day", "promo"], *((day, promo) for day, _, promo in rest[:3] + rest[4:]))
    write(
        path / "blank.csv",
        ["day", "promo"],
        *((day, "" if n == 2 else 1) for n, (day, *_) in enumerate(rest)),
    )
    write(path / "other.csv", ["day", "price"], *((day, promo) for day, _, promo in rest))
    write(path / "twice.csv", ["day", "promo"], *((day, 1) for day, *_ in [*rest, rest[0]]))
    write(path / "none.csv", ["day", "sales"], *((day, sales) for day, sales, _ in known[:T]))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, scripts, folder):
    """A linear map of sales and promotions."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    flags = [f"--{name}={value}" for name, value in (MAP | ASKED).items()]
    scripts.summary("predict_series", f"--series={folder / 'shop.csv'}", *flags, f"--workdir={workdir}")
    return workdir


def table_of(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_of(path) -> list[dict[str, str]]:
    return table_of(path / "forecast.csv")


def test_a_run_knows_what_promotions_do(run, tmp_path, scripts, folder):
    with_promotions = json.loads((run / "summary.json").read_text())
    flags = [f"--{name}={value}" for name, value in MAP.items()]
    file = [f"--series={folder / 'none.csv'}", "--valid_fraction=0.2"]
    without = scripts.summary("predict_series", *file, *flags, f"--workdir={tmp_path / 'plain'}")
    assert with_promotions["one_step_rmse"] < 1.1 * NOISE < without["one_step_rmse"] / 2
    assert with_promotions["rmse_at_4"] < 1.1 * NOISE < without["rmse_at_4"] / 2
    facts = json.loads((run / "series.json").read_text())
    assert facts["covariates"]["known"] == ["promo"] and facts["covariates"]["past"] == []


@pytest.mark.parametrize("name", ["plan", "planned"])
def test_the_time_to_come_is_read_from_a_file_of_its_own_or_from_rows_without_values(
    tmp_path, scripts, run, folder, name
):
    """Beyond the five steps of the map it feeds its forecasts back."""
    asked = f"--future={folder / 'plan.csv'}" if name == "plan" else f"--series={folder / 'planned.csv'}"
    flags = [f"--run={run}", "--horizon=12", asked, f"--workdir={tmp_path / 'next'}"]
    scripts.summary("forecast", *flags)
    rows = rows_of(tmp_path / "next")
    assert [row["time"] for row in rows] == [str(day) for day in DAYS[T:]]
    mean = np.array([float(row["mean"]) for row in rows])
    np.testing.assert_allclose(mean, 10 + EFFECT * PROMO[T:], atol=3 * NOISE)


def test_what_has_come_already_needs_no_file(tmp_path, scripts, run):
    flags = [f"--run={run}", f"--from={DAYS[T - 5]}", f"--workdir={tmp_path / 'then'}"]
    scripts.summary("forecast", *flags)
    mean = np.array([float(row["mean"]) for row in rows_of(tmp_path / "then")])
    np.testing.assert_allclose(mean, SALES[T - 5 : T], atol=4 * NOISE)


def test_a_forecast_is_the_one_made_before_saving(run, folder):
    """To the bit: parameters, units of values and of covariates, and intervals all come back."""
    config = check(from_flat({"series": str(folder / "shop.csv"), **MAP, **ASKED}, SeriesConfig))
    panel = prepare(config)
    model = model_of(config, panel)
    params = fit_at_once(config, panel, model)
    intervals = spread.calibrate(panel, model, params, 5)
    [before] = future.forecast_ahead(config, panel, model, params, intervals, 5, [T - 5])
    for series in ("", str(folder / "planned.csv")):
        options = ForecastOptions(run=str(run), series=series, from_date=str(DAYS[T - 5]))
        again = saved.prepare(options)
        if series:  # its values have units of their own
            np.testing.assert_array_equal(again.panel.only.beside.known[:T], panel.only.beside.known)
            continue
        [after] = future.forecast_ahead(
            again.config, again.panel, again.model, again.params, again.intervals, 5, again.origins
        )
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", f"'promo' is not known at {DAYS[T]}"),
        ("--horizon=12 --future={folder}/hole.csv", f"'promo' is not known at {DAYS[T + 3]}"),
        ("--future={folder}/blank.csv", f"'promo' is not known at {DAYS[T + 2]}"),
        ("--horizon=13 --future={folder}/plan.csv", f"'promo' is not known at {DAYS[T] + LATER}"),
        ("--horizon=13 --series={folder}/planned.csv", f"'promo' is not known at {DAYS[T] + LATER}"),
        ("--future={folder}/other.csv", "no column 'promo'"),
        ("--future={folder}/twice.csv", "rows 2 and 14 are of one time"),
        ("--future={folder}/none.csv", "no column 'promo'"),
        ("--future={folder}/plan.csv --time_column=date", "no column 'date'"),
        ("--series={folder}/none.csv", "no column 'promo'"),
        ("--future={folder}/missing.csv", "missing.csv"),
    ],
)
def test_what_is_not_known_is_named_by_its_date_and_column(tmp_path, scripts, run, folder, flags, says):
    given = flags.format(folder=folder).split()
    done = scripts.attempt("forecast", f"--run={run}", *given, f"--workdir={tmp_path / 'bad'}")
    assert says in refusal(done)[1] and not (tmp_path / "bad").exists()


def test_a_run_without_covariates_reads_no_future(tmp_path, scripts, folder):
    flags = [f"--{name}={value}" for name, value in MAP.items()]
    scripts.summary(
        "predict_series", f"--series={folder / 'none.csv'}", *flags, f"--workdir={tmp_path / 'run'}"
    )
    given = [f"--run={tmp_path / 'run'}", f"--future={folder / 'plan.csv'}", f"--workdir={tmp_path / 'bad'}"]
    assert "reads no --known_columns" in refusal(scripts.attempt("forecast", *given))[1]


# Several series, and nets


def long_rows(num_points: int, *, ahead: int = 0):
    """Two shops: a calendar, a promotion, guests that lag by a day, and the town of each."""
    rows = []
    for shop, town, level in (("A", "Bern", 5.0), ("B", "Chur", 9.0)):
        rng = np.random.default_rng(len(town) + int(level))
        guests = rng.normal(size=num_points + 1)
        for n in range(num_points + ahead):
            is_known = n < num_points
            weekday = (DAYS[n].astype(int) + 3) % 7
            sales = level + 2.0 * PROMO[n] + (weekday == 5) + (guests[n - 1] if is_known else 0)
            rows.append(
                [shop, DAYS[n], sales if is_known else "", PROMO[n], guests[n] if is_known else "", town]
            )
    return [["shop", "day", "sales", "promo", "guests", "town"], *rows]


LONG = {
    "known_columns": "promo",
    "past_columns": "guests",
    "static_columns": "town",
    "id_column": "shop",
    "calendar": True,
    "valid_fraction": 0.2,
    "test_fraction": 0.2,
}


def test_all_kinds_of_covariates_of_a_panel(tmp_path, scripts):
    """Tomorrow's sales are known but for the weekday's wave: guests of today, a promotion, the town."""
    write(tmp_path / "shops.csv", *long_rows(300))
    write(tmp_path / "more.csv", *long_rows(300, ahead=4))
    flags = [f"--{name}={value}" for name, value in (LONG | MAP).items()]
    given = [f"--series={tmp_path / 'shops.csv'}", *flags, f"--workdir={tmp_path / 'run'}"]
    scripts.summary("predict_series", *given)
    rows = table_of(tmp_path / "run" / "horizons.csv")
    assert float(rows[0]["linear_mae"]) < 0.5 * float(rows[1]["linear_mae"]), "guests tell one step ahead"
    flags = [f"--run={tmp_path / 'run'}", "--horizon=4", f"--workdir={tmp_path / 'next'}"]
    plan = [["shop", "day", "promo"], *([row[0], row[1], row[3]] for row in long_rows(300, ahead=4)[1:])]
    write(tmp_path / "plan.csv", *plan)
    file = [f"--series={tmp_path / 'shops.csv'}", f"--future={tmp_path / 'plan.csv'}"]
    scripts.summary("forecast", *flags, *file)
    ahead = rows_of(tmp_path / "next")
    assert [row["series"] for row in ahead] == ["A"] * 4 + ["B"] * 4
    flags[-1] = f"--workdir={tmp_path / 'again'}"
    scripts.summary("forecast", *flags, f"--series={tmp_path / 'more.csv'}")
    assert rows_of(tmp_path / "again") == ahead, "a plan in a file of its own, or in the series' own"
    write(tmp_path / "only.csv", *(row for row in plan if row[0] != "B"))
    flags[-1] = f"--workdir={tmp_path / 'bad'}"
    done = scripts.attempt("forecast", *flags, f"--future={tmp_path / 'only.csv'}")
    assert f"series 'B': the covariate 'promo' is not known at {DAYS[300]}" in refusal(done)[1]


@pytest.mark.parametrize("kind", ["mlp", "gru", "one_step"])
def test_nets_learn_what_a_promotion_does(tmp_path, scripts, folder, kind):
    flags = [f"--series={folder / 'shop.csv'}", "--known_columns=promo", f"--workdir={tmp_path / 'run'}"]
    flags += [f"--model={'mlp' if kind == 'one_step' else kind}", "--tau=4", "--hidden_size=8"]
    flags += ["--max_horizon=6", "--learning_rate=1e-2"]
    if kind == "one_step":
        flags += ["--preset=one_step", "--num_train_steps=400"]
    else:
        flags += ["--num_ahead=6", "--num_train_steps=200"]
    summary = scripts.summary("predict_series", *flags)
    spread = EFFECT * np.sqrt(0.3 * 0.7)
    assert summary["one_step_rmse"] < 0.4 * spread and summary["rmse_at_4"] < 0.4 * spread


def test_models_and_objectives_that_read_no_covariates_say_so():
    known = {"series": "shop.csv", "known_columns": "promo"}
    with pytest.raises(ValueError, match=r"known_columns=promo does nothing here: .*models that are fitted"):
        check(from_flat(known | {"model": "seasonal"}, SeriesConfig))
    with pytest.raises(ValueError, match="objective unrolled would train on past_columns"):
        check(from_flat({"series": "shop.csv", "past_columns": "a", "objective": "unrolled"}, SeriesConfig))
