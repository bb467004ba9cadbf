"""Both sides of `benchmarks.backtest` in its linear form; as a script, one of them from start to end.

    python -m benchmarks.backtest_sides lmseq|darts VALUES.npy POINTS.npy START HORIZON

The script reads a series (T, 1), fits the first START values, and writes the forecasts from every origin
after them. It imports what a user of that side would, and nothing else.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

LAGS = 4


def their_model(values: np.ndarray, start: int) -> Any:
    """darts' linear model, fitted to the first values of (T, 1)."""
    from darts import TimeSeries
    from darts.models import LinearRegressionModel

    model = LinearRegressionModel(lags=LAGS, output_chunk_length=1)
    model.fit(TimeSeries.from_values(values[:start]))
    return model


def their_forecasts(model: Any, series: Any, start: int, horizon: int, **more: Any) -> np.ndarray:
    """darts' forecasts from every origin, (O, K)."""
    found = model.historical_forecasts(
        series,
        start=start,
        forecast_horizon=horizon,
        stride=1,
        retrain=False,
        last_points_only=False,
        overlap_end=False,
        verbose=False,
        **more,
    )
    return np.stack([forecast.values(copy=False)[:, 0] for forecast in found])


def our_model(values: np.ndarray, start: int) -> tuple[Any, Any]:
    """Our linear model, and its parameters of least squares from the first values of (T, 1)."""
    from lmseq.config.series import SeriesModelConfig
    from lmseq.models.build import build_series_model
    from lmseq.models.linear import fit_least_squares

    model = build_series_model(SeriesModelConfig(model="linear", tau=LAGS), 1)
    return model, fit_least_squares(values[:start], LAGS, "point")


def our_forecasts(model: Any, params: Any, values: np.ndarray, start: int, horizon: int) -> np.ndarray:
    """Ours, (O, K), on the host."""
    from lmseq import rollout

    points = rollout.k_step_points(model, params, values, max_horizon=horizon, first_origin=start)
    return np.asarray(points)[:, :, 0]


def ours(values: np.ndarray, start: int, horizon: int) -> np.ndarray:
    """Fit and forecasts, (O, K)."""
    return our_forecasts(*our_model(values, start), values, start, horizon)


def theirs(values: np.ndarray, start: int, horizon: int) -> np.ndarray:
    """Fit and forecasts, (O, K)."""
    from darts import TimeSeries

    return their_forecasts(their_model(values, start), TimeSeries.from_values(values), start, horizon)


SIDES: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {"lmseq": ours, "darts": theirs}


def main(arguments: list[str]) -> None:
    """One side, from a file to a file."""
    side, source, target, start, horizon = arguments
    np.save(target, SIDES[side](np.load(source), int(start), int(horizon)))


if __name__ == "__main__":
    main(sys.argv[1:])
