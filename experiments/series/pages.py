"""The page of a run on series: its figures beside the obvious ones, and its forecasts origin by origin."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.series import forecasts, judging, saved
from experiments.series.forecasts import HORIZONS, Forecasts
from experiments.series.future import spelled
from experiments.series.judging import FIGURES, Judged
from experiments.series.spread import CENTRAL, LEVELS, read_intervals
from experiments.web import document, runs
from experiments.web.charts import chart_of, short
from lmseq import plotting
from lmseq.accuracy import mean_known
from lmseq.config import series as series_config
from lmseq.config.knobs import from_json
from lmseq.config.series import SeriesConfig
from lmseq.data.prepared import Prepared
from lmseq.files import read_text
from lmseq.models.build import model_of
from lmseq.plotting import AHEAD, Curve, Panel
from lmseq.training.metrics import read_records

MOST_SERIES = 24
MOST_COLUMNS = 8
MOST_VALUES = 20_000  # of a variable that are drawn
MOST_NUMBERS = 60_000  # that are drawn of all together
BEFORE = 3  # times the horizon, of what is shown before an origin
BANDS = {"coverage_80": "central 80 %", "coverage_95": "central 95 %"}


def write(workdir: Path, found: Forecasts | Judged, summary: dict[str, Any]) -> None:
    """Write page.html into the folder of a run."""
    document.write_page(workdir / document.PAGE, data_of(workdir, found, summary))


def data_of(workdir: Path, found: Forecasts | Judged, summary: dict[str, Any]) -> dict[str, Any]:
    """The data of the page of a run on one series, or on a panel of several."""
    one = isinstance(found, Forecasts)
    facts = runs.facts_of(workdir, "series.json")
    columns, table = (_table if one else _panel_table)(summary, found)
    charts = {
        "learning": _learning(workdir),
        "error": chart_of(_errors(found) if one else _panel_errors(found)),
    }
    drawn, times = _times_once(_of_series(found) if one else _of_panel(found))
    name, check = workdir.resolve().name, series_config.check
    run = runs.run_of(name, "predict_series", found.config, facts, summary, check)
    return {
        "kind": "series",
        "title": f"{summary['model']} on {summary['series']}",
        "runs": [run],
        "columns": columns,
        "table": table,
        "charts": {name: chart for name, chart in charts.items() if chart is not None},
        "forecasts": drawn,
        "times": times,
    }


def data_of_folder(folder: Path) -> dict[str, Any]:
    """The same of a finished run, which forecasts once more."""
    summary = runs.summary_of(folder)
    config = series_config.check(from_json(read_text(folder / "config.json"), SeriesConfig, "predict_series"))
    panel = saved.own_panel(config, folder)
    model = model_of(config, panel)
    params = saved.params_of(config, model, folder)
    judge = forecasts.forecast if len(panel.members) == 1 else judging.judge
    found = judge(config, panel, model, params, read_intervals(folder))
    return data_of(folder, found, summary)


# Figures, as the summary has them


def _column(key: str, name: str) -> dict[str, Any]:
    return {"name": name, "key": key, "isNumber": True}


def _table(summary: dict[str, Any], found: Forecasts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """RMSE one step ahead over every test point, and k steps ahead, of all that are compared."""
    at = [k for k in HORIZONS if f"rmse_at_{k}" in summary]
    columns = [{"name": "forecast", "key": "name"}, _column("one_step", "RMSE, every next value")]
    columns += [_column(f"at_{k}", f"RMSE, {k} ahead") for k in at]
    rows = [
        {
            "name": rival,
            "one_step": summary.get(f"{rival}_rmse"),
            **{f"at_{k}": summary.get(f"{rival}_rmse_at_{k}") for k in at},
        }
        for rival in found.curves
        if rival != found.name
    ]
    if f"oracle_rmse_at_{at[0]}" in summary:
        least = {f"at_{k}": summary[f"oracle_rmse_at_{k}"] for k in at}
        rows.append({"name": "least that is expected", **least})
    own = {"name": found.name, "own": True, "one_step": summary["one_step_rmse"]}
    return columns, [*rows, own | {f"at_{k}": summary[f"rmse_at_{k}"] for k in at}]


def _panel_table(summary: dict[str, Any], found: Judged) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Errors free of units over all series and horizons."""
    labels = {"smape": "sMAPE, %", "mase": "MASE", "mse": "MSE", "mae": "MAE"}
    columns = [{"name": "forecast", "key": "name"}, *(_column(each, labels[each]) for each in FIGURES)]
    name, *others = found.errors
    rows = [{"name": other, **_finite(found.errors[other].means())} for other in others]
    own = {each: summary[f"test_{each}" if each in ("mse", "mae") else each] for each in FIGURES}
    return columns, [*rows, {"name": name, "own": True, **own}]


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def _learning(workdir: Path) -> dict[str, Any] | None:
    """Losses by step; None of what was not trained in steps."""
    records = read_records(workdir / "metrics.jsonl")
    curves = []
    for name in ("train_loss", "valid_loss"):
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        if points:
            curves.append(Curve(name.removesuffix("_loss"), *zip(*points, strict=True)))
    return chart_of(Panel("Learning curves", "step", "loss", curves)) if curves else None


def _errors(found: Forecasts) -> Panel:
    return plotting.error_panel(found.curves, found.name, found.oracle, "Error by horizon")


def _panel_errors(found: Judged) -> Panel:
    steps = np.arange(1, found.points[0].shape[1] + 1)
    curves = [Curve(name, steps, mean_known(each.mase, 0)) for name, each in found.errors.items()]
    return Panel("Error by horizon", AHEAD, "MASE", curves)


# Forecasts


def _of_series(found: Forecasts) -> list[dict[str, Any]]:
    """Of each variable of one series, from origins spread evenly over what is drawn of the test part."""
    first, number = found.series.split.test_start, min(MOST_COLUMNS, found.points.shape[2])
    origins = [first + row for row in found.rows.tolist()]
    return [
        _drawn(found.series, column, found.name, origins, found.points[found.rows], found.around, number)
        | {"of": len(found.points)}
        for column in range(number)
    ]


def _of_panel(found: Judged) -> list[dict[str, Any]]:
    """Of some series from the best to the worst forecast: the first variable, from the last origin."""
    name = found.config.model.model
    order = np.argsort(mean_known(found.errors[name].mase, 1), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, MOST_SERIES).round().astype(int))]
    return [
        _drawn(
            found.panel.members[place],
            0,
            name,
            [found.origins[place].last],
            found.points[place][-1:],
            None if found.around is None else found.around[place],
            len(chosen),
        )
        | {"of": found.origins[place].count}
        for place in chosen
    ]


def _drawn(
    member: Prepared,
    column: int,
    name: str,
    origins: Sequence[int],
    points: np.ndarray,
    around: np.ndarray | None,
    number: int,
) -> dict[str, Any]:
    """One of a number of variables: values from before the first origin on, and forecasts of one model.

    Where these are too many values, the latest, and the origins among them, of which the last always is one.
    points: (O, K, D), around: their quantiles (O, L, K, D), in the units of the series.
    """
    horizon, values = points.shape[1], member.series.observed()
    last = min(len(values), origins[-1] + horizon)
    most = min(MOST_VALUES, MOST_NUMBERS // number)
    first = max(0, min(origins[-1] - 1, max(origins[0] - BEFORE * horizon, last - most)))
    kept = [place for place, origin in enumerate(origins) if origin > first]
    times = member.series.times
    bands = [] if around is None else [_band(around[kept, :, :, column], which) for which in BANDS]
    return {
        "series": member.series.name,
        "column": member.series.columns[column],
        "first": first,
        "values": [short(value) for value in values[first:last, column].tolist()],
        "times": None if times is None else [str(each) for each in spelled(times[first:last])],
        "origins": [origins[place] for place in kept],
        "shown": len(kept),
        "range": _range(values[first:last, column]),
        "models": [{"name": name, "points": _rows(points[kept, :, column]), "bands": bands}],
    }


def _times_once(drawn: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Forecasts that name their times by a number, and the lists of times, of which each stands once."""
    lists = dict.fromkeys(tuple(each["times"]) for each in drawn if each["times"])
    numbers = dict(zip(lists, range(len(lists)), strict=True))
    found = [each | {"times": numbers[tuple(each["times"])] if each["times"] else None} for each in drawn]
    return found, [list(times) for times in lists]


def _band(around: np.ndarray, which: str) -> dict[str, Any]:
    """A central interval of quantiles (O, L, K)."""
    low, high = (LEVELS.index(level) for level in CENTRAL[which])
    return {
        "label": BANDS[which],
        "low": _rows(around[:, low]),
        "high": _rows(around[:, high]),
    }


def _rows(values: np.ndarray) -> list[list[float | None]]:
    """Numbers (O, K) to six digits, all of them: a forecast has as many as its horizon has steps."""
    return [[short(value) for value in row] for row in values.tolist()]


def _range(values: np.ndarray) -> list[float | None]:
    """Of the axis, the same for all origins: a forecast that runs off must not flatten the series."""
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.25 * (high - low) or 1.0
    return [short(float(low - margin)), short(float(high + margin))]
