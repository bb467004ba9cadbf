"""Backtests side by side with darts: every origin of the test part, every horizon to 64, fitted once.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.backtest --points=1000,10000,100000

A linear autoregression on 4 lags is fitted by both and must forecast the same numbers. A Markov perceptron
stands beside darts' TiDE (a perceptron too) and an LSTM beside darts' LSTM, of equal width, on 4 and 24 past
values; they are not trained beyond one epoch, since only the forecasting is timed. darts is run with its own
batches, of 32, and with batches as large as ours. Its LSTM reads 24 values again from each origin, while ours
carries its state along the series: compared is the time of a whole backtest, not of equal work. Rounds are
interleaved and medians taken; `cold` includes compilation, `warm` does not. A ratio is darts' time divided by
ours. The last line is a JSON object with `ratios`.
"""

import logging
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import hardware, publish, timed
from experiments.frame.command import main_with_flags
from experiments.frame.console import numbers, say
from experiments.frame.start import prepare_jax

flags.DEFINE_string("points", "1000,10000,100000", "lengths of the series")
flags.DEFINE_integer("horizon", 64, "steps ahead")
flags.DEFINE_integer("rounds", 3, "interleaved repetitions, of which the median counts")
flags.DEFINE_integer("hidden_size", 25, "units of the neural models; 25 is the default of darts' LSTM")
flags.DEFINE_integer("neural_points", 0, "longest series for the neural models; 0: all of --points")
flags.DEFINE_integer("seed", 0, "of the series and the models")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["points", "horizon", "rounds", "hidden_size", "neural_points", "seed", "output"]
LAGS, LSTM_LAGS, TRAIN_SHARE, TOLERANCE = 4, 24, 0.6, 1e-5


def compare(name: str, points: int, ours: Callable, theirs: Callable, rounds: int) -> dict[str, Any]:
    """Medians of interleaved rounds, and the forecasts of both sides."""
    import jax

    seconds: dict[str, list[float]] = {"darts": [], "cold": [], "warm": []}
    for _ in range(rounds):
        spent, their_points = timed(theirs)
        seconds["darts"].append(spent)
        jax.clear_caches()
        for kind in ("cold", "warm"):
            spent, our_points = timed(ours)
            seconds[kind].append(spent)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    row = {
        "model": name,
        "points": points,
        "origins": len(our_points),
        **{f"{kind}_seconds": value for kind, value in medians.items()},
        "warm_ratio": medians["darts"] / medians["warm"],
        "cold_ratio": medians["darts"] / medians["cold"],
    }
    say(
        f"{name:<20}{points:>9,} points {len(our_points):>8,} origins   darts {medians['darts']:8.3f} s   "
        f"here {medians['cold']:.3f} s with compilation, {medians['warm']:.4f} s without: "
        f"{row['cold_ratio']:.1f} and {row['warm_ratio']:.1f} times"
    )
    return row | {"ours": our_points, "theirs": their_points}


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


def our_forecasts(model: Any, params: Any, values: np.ndarray, start: int, horizon: int) -> np.ndarray:
    """Ours, (O, K), on the host."""
    from lmseq import rollout

    points = rollout.k_step_points(model, params, values, max_horizon=horizon, first_origin=start)
    return np.asarray(points)[:, :, 0]


def linear(values: np.ndarray, horizon: int, rounds: int) -> dict[str, Any]:
    """The same least-squares model, whose forecasts must be the same numbers."""
    from darts import TimeSeries
    from darts.models import LinearRegressionModel

    from lmseq.config.series import SeriesModelConfig
    from lmseq.models.build import build_series_model
    from lmseq.models.linear import fit_least_squares

    start = int(TRAIN_SHARE * len(values))
    series = TimeSeries.from_values(values)
    theirs = LinearRegressionModel(lags=LAGS, output_chunk_length=1)
    theirs.fit(series[:start])
    model = build_series_model(SeriesModelConfig(model="linear", tau=LAGS), 1)
    params = fit_least_squares(values[:start], LAGS, "point")
    row = compare(
        "linear",
        len(values),
        lambda: our_forecasts(model, params, values, start, horizon),
        lambda: their_forecasts(theirs, series, start, horizon),
        rounds,
    )
    difference = float(np.abs(row["ours"] - row["theirs"]).max() / values.std())
    if not difference <= TOLERANCE:
        raise ArithmeticError(
            f"expected the same forecasts to {TOLERANCE}, got a difference of {difference:.3g}"
        )
    return row | {"largest_difference": difference}


def neural(
    name: str, values: np.ndarray, horizon: int, rounds: int, hidden_size: int, seed: int
) -> list[dict[str, Any]]:
    """Models of the same kind and width, from random parameters: only the forecasting is timed."""
    import jax
    from darts import TimeSeries
    from darts.models import RNNModel, TiDEModel

    from lmseq.config.series import SeriesModelConfig
    from lmseq.models.build import build_series_model
    from lmseq.rollout import BLOCK

    start = int(TRAIN_SHARE * len(values))
    series = TimeSeries.from_values(values.astype(np.float32))
    quiet = {
        "enable_progress_bar": False,
        "logger": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    common = {"n_epochs": 1, "random_state": seed, "pl_trainer_kwargs": quiet}
    if name == "mlp":
        theirs = TiDEModel(
            input_chunk_length=LAGS,
            output_chunk_length=1,
            hidden_size=hidden_size,
            num_encoder_layers=1,
            num_decoder_layers=1,
            **common,
        )
        config = SeriesModelConfig(model="mlp", tau=LAGS, hidden_size=hidden_size, num_layers=2)
    else:
        theirs = RNNModel(
            model="LSTM", input_chunk_length=LSTM_LAGS, training_length=32, hidden_dim=hidden_size, **common
        )
        config = SeriesModelConfig(model="lstm", hidden_size=hidden_size, num_layers=1)
    theirs.fit(series[: min(start, 2000)], verbose=False)
    model = build_series_model(config, 1)
    params = jax.device_get(model.init(jax.random.key(seed)))
    return [
        compare(
            label,
            len(values),
            lambda: our_forecasts(model, params, values, start, horizon),
            partial(their_forecasts, theirs, series, start, horizon, **more),
            rounds,
        )
        for label, more in ((name, {}), (f"{name}_large_batches", {"predict_kwargs": {"batch_size": BLOCK}}))
    ]


def main() -> int:
    lengths = numbers(flags.FLAGS.points, "points")
    horizon, rounds, seed = flags.FLAGS.horizon, flags.FLAGS.rounds, flags.FLAGS.seed
    if min(horizon, rounds, flags.FLAGS.hidden_size) < 1 or seed < 0 or min(lengths) < 10 * horizon:
        raise ValueError(
            "expected horizon, rounds, hidden_size of at least 1 and points of 10 horizons or more"
        )
    try:
        import darts
    except ImportError:
        raise ValueError("darts is not installed: pip install -r benchmarks/requirements.txt") from None
    prepare_jax(keep_programs=flags.FLAGS.compilation_cache)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from lmseq.data.synthetic import autoregression

    rows = []
    for length in lengths:
        made = autoregression(np.random.default_rng(seed), length, np.array([0.6, -0.3, 0.2, 0.1]))
        rows.append(linear(made.values, horizon, rounds))
        if length <= (flags.FLAGS.neural_points or max(lengths)):
            for name in ("mlp", "lstm"):
                rows.extend(neural(name, made.values, horizon, rounds, flags.FLAGS.hidden_size, seed))
    figures = [{k: v for k, v in row.items() if k not in ("ours", "theirs")} for row in rows]
    ratios = {f"{r['model']}_{r['points']}_{k}": r[f"{k}_ratio"] for r in figures for k in ("cold", "warm")}
    summary = {"hardware": hardware(), "darts": darts.__version__, "ratios": ratios, "rows": figures}
    publish(summary, flags.FLAGS.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)
