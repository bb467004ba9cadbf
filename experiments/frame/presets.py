"""Named settings of published and documented results: the command, the time it takes, the figure to expect.

Times are of two CPU cores of 2023 (AMD EPYC), from process start. Flags that are given win over a preset's.
"""

from collections.abc import Callable
from typing import Any

from experiments.frame import text_presets

Preset = Callable[[], dict[str, Any]]  # settings by name; its docstring says what for


def none() -> dict[str, Any]:
    """The defaults."""
    return {}


def one_step() -> dict[str, Any]:
    """Plain settings: four values read, trained one step ahead, nothing validated; 0.22 on noisy_sine, 8 s.

    python -m experiments.predict_series --preset=one_step --workdir=runs/one_step

    The article's way, which pages and claims compare others with. Also for any other series.
    """
    return {}


def sine() -> dict[str, Any]:
    """The article's noisy sine from four lags: RMSE 0.22 one step ahead (noise 0.2), 0.54 at 64; 8 s.

    python -m experiments.predict_series --preset=sine --workdir=runs/sine
    """
    return {"series": "noisy_sine", "model": "mlp", "tau": 4}


def chaos() -> dict[str, Any]:
    """The logistic map: errors grow by 0.69 nats a step, the Lyapunov exponent ln 2; 8 s.

    python -m experiments.predict_series --preset=chaos --workdir=runs/logistic
    """
    return {"series": "logistic", "num_train_steps": 1500}


def autoregression() -> dict[str, Any]:
    """A linear model on a linear series: RMSE(k) within 2 % of the closed form, 1.17 at 4 steps; 8 s.

    python -m experiments.predict_series --preset=autoregression --workdir=runs/ar
    """
    return {
        "series": "ar",
        "coefficients": "0.6,-0.3,0.2",
        "num_points": 100_000,
        "model": "linear",
        "tau": 3,
    }


def m4_hourly() -> dict[str, Any]:
    """M4's 414 hourly series by one perceptron: sMAPE 8.96, MASE 0.83, 48 hours ahead; 25 s.

    python -m experiments.predict_series --preset=m4_hourly --workdir=runs/m4

    Below the winner of the competition, with 9.328 and 0.893 (ES-RNN; Makridakis et al. 2020). A window of a
    week of logarithms, less their mean, gives the median of the two days to come, by absolute errors. The
    settings were chosen on the last 96 hours of the training file, and the checkpoint on its last 48. The
    test file chose nothing.
    """
    return _m4_net("Hourly", 48, 24, 168) | {"valid_points": 48}


def m4_weekly() -> dict[str, Any]:
    """M4's weekly series, 13 weeks ahead, by the net of m4_hourly: to beat 7.817; 25 s there, not tried.

    python -m experiments.predict_series --preset=m4_weekly --workdir=runs/m4
    """
    return _m4_net("Weekly", 13, 1, 26) | {"valid_points": 13}


def m4_daily() -> dict[str, Any]:
    """M4's daily series, 14 days ahead, by the net of m4_hourly: to beat 3.170; 25 s there, not tried.

    python -m experiments.predict_series --preset=m4_daily --workdir=runs/m4
    """
    return _m4_net("Daily", 14, 1, 28) | {"valid_points": 14}


def m4_monthly() -> dict[str, Any]:
    """M4's monthly series, 18 months ahead, by the net of m4_hourly: to beat 12.126; 25 s there, not tried.

    python -m experiments.predict_series --preset=m4_monthly --workdir=runs/m4

    Window and horizon are as long as the shortest series, so nothing is left to validate on.
    """
    return _m4_net("Monthly", 18, 12, 24)


def m4_quarterly() -> dict[str, Any]:
    """M4's quarterly series, 8 quarters ahead, by the net of m4_hourly: to beat 9.679; 25 s there, not tried.

    python -m experiments.predict_series --preset=m4_quarterly --workdir=runs/m4
    """
    return _m4_net("Quarterly", 8, 4, 8)


def m4_yearly() -> dict[str, Any]:
    """M4's yearly series, 6 years ahead, by the net of m4_hourly: to beat 13.176; 25 s there, not tried.

    python -m experiments.predict_series --preset=m4_yearly --workdir=runs/m4
    """
    return _m4_net("Yearly", 6, 1, 6)


def _m4_net(frequency: str, horizon: int, period: int, tau: int) -> dict[str, Any]:
    """A perceptron with a linear map beside it, of the logarithms less their mean, by absolute errors."""
    return _m4(frequency, horizon, period) | {
        "model": "mlp",
        "tau": tau,
        "hidden_size": 256,
        "activation": "relu",
        "skip": True,
        "head": "median",
        "num_steps": 1,
        "batch_size": 1024,
        "learning_rate": 3e-3,
        "warmup_steps": 100,
        "num_train_steps": 1000,
        "steps_per_dispatch": 50,
        "eval_every": 100,
        "checkpoint_every": 200,
    }


def m4_hourly_map() -> dict[str, Any]:
    """M4's 414 hourly series by one linear map in closed form: sMAPE 9.61, 48 hours ahead; 6 s.

    python -m experiments.predict_series --preset=m4_hourly_map --workdir=runs/m4map

    The ridge was chosen on the last 48 hours of the training file, then all of that file is fitted. The test
    file chose nothing.
    """
    linear = {"model": "linear", "tau": 500, "ridge": -1.0, "refit": True}
    return _m4("Hourly", 48, 24) | linear | {"valid_points": 48}


def _m4(frequency: str, horizon: int, period: int) -> dict[str, Any]:
    """A frequency of the M4 competition (Makridakis et al. 2020), from m4/ of LMSEQ_DATA_DIR."""
    return {
        "series": f"m4/{frequency}-train.csv",
        "test_series": f"m4/{frequency}-test.csv",
        "period": period,
        "log": True,
        "standardise": False,
        "normalisation": "mean",
        "objective": "direct",
        "num_ahead": horizon,
        "max_horizon": horizon,
    }


def etth1_96() -> dict[str, Any]:
    """ETTh1, 96 hours ahead, by one linear map in closed form: MSE 0.3698, MAE 0.3913; 7 s.

    python -m experiments.predict_series --preset=etth1_96 --workdir=runs/etth1

    Published: PatchTST/64 0.370 / 0.400 (Nie et al. 2023), NLinear 0.374 / 0.394 (Zeng et al. 2023). Window
    and normalisation are those of NLinear, the ridge is chosen on the validation part. --series=FILE takes
    another file of the same form and split, such as ETTh2.csv.
    """
    return _ett(96)


def etth1_720() -> dict[str, Any]:
    """ETTh1, 720 hours ahead, by one linear map in closed form: MSE 0.4326, MAE 0.4507; 12 s.

    python -m experiments.predict_series --preset=etth1_720 --workdir=runs/etth1

    Published: PatchTST/64 0.447 / 0.468 (Nie et al. 2023), NLinear 0.440 / 0.453 (Zeng et al. 2023).
    """
    return _ett(720)


def _ett(horizon: int) -> dict[str, Any]:
    """An hourly file of ETT (Zhou et al. 2021), from ett/ of LMSEQ_DATA_DIR, split as in its papers."""
    return {
        "series": "ett/ETTh1.csv",
        "channels": "independent",
        "period": 24,
        "train_points": 8640,
        "valid_points": 2880,
        "test_points": 2880,
        "model": "linear",
        "tau": 336,
        "ridge": -1.0,
        "normalisation": "last",
        "objective": "direct",
        "num_ahead": horizon,
        "max_horizon": horizon,
    }


TRAIN_LM: tuple[Preset, ...] = (none, *text_presets.TRAIN_LM)
TRAIN_NGRAM: tuple[Preset, ...] = (none, *text_presets.TRAIN_NGRAM)
PREDICT_SERIES: tuple[Preset, ...] = (
    none,
    one_step,
    sine,
    chaos,
    autoregression,
    m4_hourly,
    m4_hourly_map,
    m4_weekly,
    m4_daily,
    m4_monthly,
    m4_quarterly,
    m4_yearly,
    etth1_96,
    etth1_720,
)
