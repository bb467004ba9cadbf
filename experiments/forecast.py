"""Forecast what comes next with a run of predict_series: from the end of its data, or of other series.

    python -m experiments.forecast --run=runs/load --horizon=48 --workdir=runs/next
    python -m experiments.forecast --run=runs/load --series=new.csv --horizon=14 --workdir=runs/new
    python -m experiments.forecast --run=runs/load --future=holidays.csv --workdir=runs/next

Writes forecast.csv (a row a series and step: time, mean and quantiles), a picture and summary.json. The run
is rebuilt from its own config, and nothing is trained. Series that the run has not seen are welcome, if they
have as many values a step as its own. Quantiles come from the errors of the run's forecasts of its validation
part, by horizon (split conformal prediction).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.frame.experiment import Call, Experiment, main
from lmseq.config.knobs import MOST_UNITS, at_least, knob


@dataclass(frozen=True)
class ForecastOptions:
    """Which run forecasts what, from when, and how far."""

    run: str = knob("", "folder of a run of predict_series", is_path=True)
    horizon: int = knob(0, "steps ahead; 0: as many as the run was judged by")
    series: str = knob("", "another CSV file to forecast; empty: the run's own data", is_path=True)
    future: str = knob(
        "",
        "CSV file with the covariates of the time to come, a row a time; empty: rows of the series' own file",
        is_path=True,
    )
    from_date: str = knob(
        "",
        "first time to forecast, which has a row or comes right after the last one; empty: the latter",
        flag="from",
    )
    form: Literal["auto", "table", "long", "wide"] = knob("auto", "how series stand in that file")
    columns: str = knob("", "columns of values in that file; empty: those of the run, if it has them, or all")
    time_column: str = knob("", "column of times in that file or --future; empty: found by itself")
    id_column: str = knob("", "column of them with the names of series; empty: found by itself")
    decimal: Literal["auto", "point", "comma"] = knob("auto", "decimal mark in them")
    missing: Literal["error", "previous", "interpolate"] = knob("error", "what to do with its missing values")
    repair: bool = knob(False, "sort its rows, take the mean of those of one time, add those that lack")


def check(options: ForecastOptions) -> ForecastOptions:
    """ValueError for flags that are missing, out of range, or do nothing without --series."""
    if not options.run:
        raise ValueError("expected --run=DIR, the folder of a run of predict_series")
    at_least(0, MOST_UNITS, horizon=options.horizon)
    plain = ForecastOptions()
    of_future = ("time_column", "id_column", "decimal")
    for name in ("form", "columns", "missing", "repair", *of_future):
        is_read = options.series or (options.future and name in of_future)
        if getattr(options, name) != getattr(plain, name) and not is_read:
            raise ValueError(
                f"--{name} is of another file than the run's: give --series too, or leave it out"
            )
    return options


def prepare(call: Call) -> Any:
    """The run, and the series to forecast."""
    from experiments.series import saved

    return saved.prepare(call.config)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Forecast, write, draw."""
    from experiments.series import saved

    return saved.run(workdir, prepared)


EXPERIMENT = Experiment(
    module="experiments.forecast",
    doc=__doc__,
    config=ForecastOptions,
    check=check,
    prepare=prepare,
    facts_file="series.json",
    run=run,
    num_devices=lambda config: 1,
    noun="forecast",
)

if __name__ == "__main__":
    main(EXPERIMENT)
