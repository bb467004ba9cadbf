"""Backtests side by side with darts: every origin of the test part, every horizon to 64, fitted once.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.backtest

The horizon is --horizon, or a tenth of a series that is too short for it. A linear autoregression on 4 lags
is fitted by both and must forecast the same numbers. `process` is the whole of it, for each side in a process
of its own: from its start, with imports, a fit and all forecasts, until they are written. A Markov perceptron
stands beside darts' TiDE (a perceptron too) and an LSTM beside darts' LSTM, of equal width, on 4 and 24 past
values; they are not trained beyond one epoch, since only the forecasting is timed. darts is run with its own
batches, of 32, and with batches as large as ours. Its LSTM reads 24 values again from each origin, while ours
carries its state along the series: compared is the time of a whole backtest, not of equal work. Rounds are
interleaved and medians taken; `cold` includes compilation, `warm` does not. A ratio is darts' time divided by
ours. The last line is a JSON object with `ratios`.
"""

import logging
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.backtest_sides import LAGS, SIDES, our_forecasts, our_model, their_forecasts, their_model
from benchmarks.measure import hardware, publish, run_process, timed
from experiments.frame.command import main_with_flags
from experiments.frame.console import numbers, say
from experiments.frame.start import prepare_jax

flags.DEFINE_string("points", "100,300,1000,10000,100000", "lengths of the series")
flags.DEFINE_integer("horizon", 64, "steps ahead, or a tenth of a series if that is less")
flags.DEFINE_integer("rounds", 3, "interleaved repetitions, of which the median counts")
flags.DEFINE_integer("hidden_size", 25, "units of the neural models; 25 is the default of darts' LSTM")
flags.DEFINE_integer("neural_points", 0, "longest series for the neural models; 0: all of --points")
flags.DEFINE_integer("seed", 0, "of the series and the models")
flags.DEFINE_string("output", "", "also write the figures to this JSON file, with the hardware named")
NAMES = ["points", "horizon", "rounds", "hidden_size", "neural_points", "seed", "output"]
LSTM_LAGS, TRAIN_SHARE, TOLERANCE = 24, 0.6, 1e-5
SHORTEST = 100  # points: darts' LSTM trains on 33 of the first 60


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
        "horizon": our_points.shape[1],
        "origins": len(our_points),
        **{f"{kind}_seconds": value for kind, value in medians.items()},
        "warm_ratio": medians["darts"] / medians["warm"],
        "cold_ratio": medians["darts"] / medians["cold"],
    }
    say(
        f"{name:<20}{points:>9,} points {len(our_points):>8,} origins {our_points.shape[1]:>3} ahead   "
        f"darts {medians['darts']:8.3f} s   here {medians['cold']:.3f} s with compilation, "
        f"{medians['warm']:.4f} s without: {row['cold_ratio']:.1f} and {row['warm_ratio']:.1f} times"
    )
    return row | {"ours": our_points, "theirs": their_points}


def linear(values: np.ndarray, horizon: int, rounds: int) -> dict[str, Any]:
    """The same least-squares model, whose forecasts must be the same numbers; also as whole processes."""
    from darts import TimeSeries

    start = int(TRAIN_SHARE * len(values))
    series, theirs = TimeSeries.from_values(values), their_model(values, start)
    model, params = our_model(values, start)
    row = compare(
        "linear",
        len(values),
        lambda: our_forecasts(model, params, values, start, horizon),
        lambda: their_forecasts(theirs, series, start, horizon),
        rounds,
    )
    row["largest_difference"] = difference_of(row["ours"], row["theirs"], values)
    return row | processes(values, start, horizon, rounds)


def difference_of(ours: np.ndarray, theirs: np.ndarray, values: np.ndarray) -> float:
    """The largest difference of forecasts, in deviations of the series; ArithmeticError if they differ."""
    difference = float(np.abs(ours - theirs).max() / values.std())
    if not difference <= TOLERANCE:
        raise ArithmeticError(
            f"expected the same forecasts to {TOLERANCE}, got a difference of {difference:.3g}"
        )
    return difference


def processes(values: np.ndarray, start: int, horizon: int, rounds: int) -> dict[str, Any]:
    """Medians of whole processes of both sides, from their start to forecasts written, interleaved."""
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "values.npy"
        np.save(source, values)
        targets = {side: Path(folder) / f"{side}.npy" for side in SIDES}
        for _ in range(rounds):
            for side, target in targets.items():
                numbers = map(str, (source, target, start, horizon))
                command = [sys.executable, "-m", "benchmarks.backtest_sides", side, *numbers]
                seconds[side].append(run_process(command)[:2])
        difference_of(np.load(targets["lmseq"]), np.load(targets["darts"]), values)
    ours, theirs = (np.median(seconds[side], axis=0) for side in ("lmseq", "darts"))
    ratio, cpu_ratio = theirs / ours
    say(
        f"{'':<20}whole processes: darts {theirs[0]:.2f} s   here {ours[0]:.2f} s: {ratio:.1f} times, "
        f"{cpu_ratio:.1f} in seconds of a core"
    )
    return {
        "process_seconds": ours[0],
        "darts_process_seconds": theirs[0],
        "process_ratio": ratio,
        "process_cpu_ratio": cpu_ratio,
    }


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
    if min(horizon, rounds, flags.FLAGS.hidden_size) < 1 or seed < 0 or min(lengths) < SHORTEST:
        raise ValueError(
            f"expected horizon, rounds, hidden_size of at least 1, seed of at least 0 and points of at least "
            f"{SHORTEST}"
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
        ahead = min(horizon, length // 10)
        rows.append(linear(made.values, ahead, rounds))
        if length <= (flags.FLAGS.neural_points or max(lengths)):
            for name in ("mlp", "lstm"):
                rows.extend(neural(name, made.values, ahead, rounds, flags.FLAGS.hidden_size, seed))
    figures = [{k: v for k, v in row.items() if k not in ("ours", "theirs")} for row in rows]
    ratios = {
        f"{row['model']}_{row['points']}_{kind}": row[f"{kind}_ratio"]
        for row in figures
        for kind in ("process", "process_cpu", "cold", "warm")
        if f"{kind}_ratio" in row
    }
    summary = {
        "hardware": hardware(),
        "load": os.getloadavg()[1],
        "darts": darts.__version__,
        "ratios": ratios,
        "rows": figures,
    }
    publish(summary, flags.FLAGS.output)
    return 0


if __name__ == "__main__":
    main_with_flags(main, __doc__, NAMES)
