"""Those that `benchmarks.forecasting` compares; as a script, one of them from start to end.

    python -m benchmarks.forecast_peers NAME TASK.npz POINTS.npz

Each takes a task and returns its forecasts (O_n, K) of every series. Models are fitted once, to what stands
before the first origins; the other origins are reached without fitting again. Settings are plain
ones after each library's examples; none was tuned.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.forecast_tasks import Task, read_task, write_points

SEED = 0
AT_ONCE = 1000  # origins of one call of global models, for their memory
LEAST = 5  # windows for each value of a window


def window_of(task: Task) -> int:
    """How many values a window has: fourteen seasons, or so many that there are some windows for each."""
    at_all, of_one = sum(task.starts) - task.horizon, min(task.starts) - task.horizon
    return max(1, min(14 * max(2, task.period), at_all // LEAST, (of_one - LEAST) // 2))


# statsforecast: a model for each series


def statistical(name: str, task: Task) -> list[np.ndarray]:
    """AutoETS, AutoTheta, AutoARIMA or SeasonalNaive, the series shared out over the processor's cores."""
    jobs = [
        (name, values, list(task.origins(place)), task.horizon, task.period)
        for place, values in enumerate(task.values)
    ]
    cores = min(len(jobs), os.cpu_count() or 1)
    if cores == 1:
        return [_statistical(*job) for job in jobs]
    with get_context("spawn").Pool(cores) as pool:
        return pool.starmap(_statistical, jobs)


def _statistical(name: str, values: np.ndarray, origins: list[int], horizon: int, period: int) -> np.ndarray:
    from statsforecast import models

    made = {
        "AutoETS": models.AutoETS,
        "AutoTheta": models.AutoTheta,
        "AutoARIMA": models.AutoARIMA,
        "SeasonalNaive": models.SeasonalNaive,
    }[name]
    model = made(season_length=period)
    if len(origins) == 1 or name == "SeasonalNaive":  # the latter has nothing to fit
        return np.stack([model.forecast(values[:origin], horizon)["mean"] for origin in origins])
    model.fit(values[: origins[0]])
    return np.stack([model.forward(values[:origin], horizon)["mean"] for origin in origins])


# Global models


def frame(numbers: Any, series: list[np.ndarray]) -> Any:
    """Series as nixtla's libraries take them: rows of unique_id, ds and y."""
    import pandas

    lengths = [len(values) for values in series]
    return pandas.DataFrame(
        {
            "unique_id": np.repeat(np.asarray(numbers), lengths),
            "ds": np.concatenate([np.arange(length) for length in lengths]),
            "y": np.concatenate(series),
        }
    )


def known_of(task: Task) -> list[np.ndarray]:
    """What may be fitted."""
    return [values[:start] for values, start in zip(task.values, task.starts, strict=True)]


def by_origin(task: Task, predict: Callable[[Any], Any], seen: list[np.ndarray]) -> list[np.ndarray]:
    """Forecasts after windows, one for each origin, given to `predict` as series, so many at a time."""
    points = []
    for first in range(0, len(seen), AT_ONCE):
        part = seen[first : first + AT_ONCE]
        found = predict(frame(range(len(part)), part)).sort_values(["unique_id", "ds"])
        points.append(found["model"].to_numpy(np.float64).reshape(-1, task.horizon))
    return task.split(np.concatenate(points))


def machine_learning(kind: str, task: Task) -> list[np.ndarray]:
    """mlforecast on seasonal differences, one step fed back; linear regression or LightGBM."""
    from mlforecast import MLForecast
    from mlforecast.target_transforms import Differences, LocalStandardScaler

    if kind == "linear":
        from sklearn.linear_model import LinearRegression

        model = LinearRegression()
    else:
        from lightgbm import LGBMRegressor

        model = LGBMRegressor(random_state=SEED, verbosity=-1)
    period, length = task.period, window_of(task)
    lags = range(1, length + 1)
    if kind == "lightgbm":  # trees gain nothing from hundreds of lags: those of a season, then its multiples
        lags = [lag for lag in lags if lag <= period or lag % period == 0]
    forecaster = MLForecast(
        models={"model": model},
        freq=1,
        lags=list(lags),
        target_transforms=[Differences([period]), LocalStandardScaler()],
    )
    known = known_of(task)
    forecaster.fit(frame(range(len(known)), known), static_features=[])
    _, seen = task.windows(length + 3 * period + 1)
    return by_origin(task, lambda part: forecaster.predict(task.horizon, new_df=part), seen)


def neural(task: Task) -> list[np.ndarray]:
    """neuralforecast's N-HiTS with windows scaled robustly and 200 steps, twice those of its README."""
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS

    length = window_of(task)
    model = NHITS(
        h=task.horizon,
        input_size=length,
        max_steps=200,
        scaler_type="robust",
        random_seed=SEED,
        alias="model",
        enable_progress_bar=False,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        start_padding_enabled=True,
    )
    forecaster = NeuralForecast(models=[model], freq=1)
    known = known_of(task)
    forecaster.fit(frame(range(len(known)), known))
    _, seen = task.windows(length)
    return by_origin(task, lambda part: forecaster.predict(df=part), seen)


def of_darts(task: Task) -> list[np.ndarray]:
    """darts' linear regression from a window to each step ahead, one for all series."""
    from darts import TimeSeries
    from darts.models import LinearRegressionModel

    model = LinearRegressionModel(lags=window_of(task), output_chunk_length=task.horizon)
    model.fit([TimeSeries.from_values(values) for values in known_of(task)])
    if task.num_origins == len(task.values):
        found = model.predict(task.horizon, series=[TimeSeries.from_values(each) for each in known_of(task)])
        return [each.values()[:, 0][None] for each in found]
    rows = []
    for values, start in zip(task.values, task.starts, strict=True):
        found = model.historical_forecasts(
            TimeSeries.from_values(values),
            start=start,
            forecast_horizon=task.horizon,
            stride=task.step,
            retrain=False,
            last_points_only=False,
            overlap_end=False,
        )
        rows.append(np.stack([each.values()[:, 0] for each in found]))
    return rows


def linear_map(task: Task) -> list[np.ndarray]:
    """lmseq's linear map in closed form, its ridge chosen on the last quarter of what may be fitted."""
    from lmseq.config.series import (
        ForecastConfig,
        ObjectiveConfig,
        SeriesConfig,
        SeriesDataConfig,
        SeriesModelConfig,
    )
    from lmseq.data.series import prepare
    from lmseq.models.build import fit_at_once, model_of
    from lmseq.panels import Origins, panel_points

    (values,), (start,) = task.values, task.starts
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.csv"
        path.write_text("y\n" + "\n".join(map(repr, values.tolist())))
        data = SeriesDataConfig(
            series=str(path), period=task.period, valid_points=start // 4, test_points=len(values) - start
        )
        window = min(window_of(task), (start - start // 4 - task.horizon) // 2)
        config = SeriesConfig(
            data,
            SeriesModelConfig(model="linear", tau=window, ridge=-1.0, refit=True, normalisation="mean"),
            ObjectiveConfig(objective="direct", num_ahead=task.horizon),
            forecast=ForecastConfig(max_horizon=task.horizon),
        )
        prepared = prepare(config)
    model = model_of(config, prepared)
    params = fit_at_once(config, prepared, model)
    origins = [Origins(start, task.num_origins, task.step)]
    (points,) = panel_points(model, params, [prepared.only.values], origins, max_horizon=task.horizon)
    return [prepared.only.scaler.undo(points)[:, :, 0]]


class Forecaster(NamedTuple):
    """Who forecasts: the package that it needs, whether it is slow, and what it does."""

    package: str
    slow: bool
    forecast: Callable[[Task], list[np.ndarray]]


PEERS = {
    "SeasonalNaive": Forecaster("statsforecast", False, partial(statistical, "SeasonalNaive")),
    "AutoTheta": Forecaster("statsforecast", False, partial(statistical, "AutoTheta")),
    "AutoETS": Forecaster("statsforecast", True, partial(statistical, "AutoETS")),
    "AutoARIMA": Forecaster("statsforecast", True, partial(statistical, "AutoARIMA")),
    "mlforecast, linear": Forecaster("mlforecast", False, partial(machine_learning, "linear")),
    "mlforecast, LightGBM": Forecaster("lightgbm", False, partial(machine_learning, "lightgbm")),
    "darts, linear": Forecaster("darts", False, of_darts),
    "N-HiTS": Forecaster("neuralforecast", True, neural),
}
OURS = {"lmseq, linear map": Forecaster("lmseq", False, linear_map)}


def main(arguments: list[str]) -> None:
    """One of them, from a file to a file."""
    warnings.filterwarnings("ignore")
    name, source, target = arguments
    write_points((PEERS | OURS)[name].forecast(read_task(Path(source))), Path(target))


if __name__ == "__main__":
    main(sys.argv[1:])
