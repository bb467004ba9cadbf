"""Named settings of published and documented results: the command, the time it takes, the figure to expect.

Times are of two CPU cores of 2023 (AMD EPYC), from process start. Flags that are given win over a preset's.
"""

from collections.abc import Callable
from typing import Any

Preset = Callable[[], dict[str, Any]]  # settings by name; its docstring says what for


def none() -> dict[str, Any]:
    """The defaults."""
    return {}


def shakespeare_cpu() -> dict[str, Any]:
    """A GRU of 0.8 M parameters: below 1.47 nats a character on the last tenth of tiny_shakespeare, 90 s.

    python -m experiments.train_lm --preset=shakespeare_cpu --workdir=runs/shakespeare

    Passes 1.88, the figure of a much-used transformer after two minutes on such a machine (nanoGPT), in about
    10 s, and ends at 1.464, where that transformer has 1.47 with 10.6 M parameters and a GPU. Everything was
    chosen on the tenth before the last one.
    """
    return {
        "corpus": "tiny_shakespeare",
        "valid_fraction": 0.1,
        "test_fraction": 0.0,
        "hidden_size": 384,
        "embedding_size": 256,
        "dropout": 0.25,
        "precision": "bfloat16",
        "batch_size": 20,
        "num_steps": 64,
        "learning_rate": 4e-3,
        "num_train_steps": 4800,
        "eval_every": 400,
        "checkpoint_every": 1600,
        "target_loss": 1.88,
    }


def shakespeare_attention() -> dict[str, Any]:
    """Four layers of attention, 0.8 M parameters: 1.76 nats on tiny_shakespeare's end, in about 95 s.

    python -m experiments.train_lm --preset=shakespeare_attention --workdir=runs/attention

    The size of a much-used transformer's setting for such machines (nanoGPT), which needs two minutes to
    1.88 on the last tenth: passed here after less than 80 s. The carry goes on from window to window: each
    layer sees 63 characters before its own wherever a window is cut, four layers 252, where that transformer
    reads 64 anew. Settings were chosen on the tenth before the last one.
    """
    return {
        "corpus": "tiny_shakespeare",
        "valid_fraction": 0.1,
        "test_fraction": 0.0,
        "model": "attention",
        "num_layers": 4,
        "hidden_size": 128,
        "window": 64,
        "precision": "bfloat16",
        "batch_size": 20,
        "num_steps": 64,
        "optimizer": "muon",
        "weight_decay": 0.1,
        "learning_rate": 8e-3,
        "num_train_steps": 600,
        "eval_every": 100,
        "checkpoint_every": 600,
        "target_loss": 1.88,
        "horizon_origins": 32,
        "horizon_samples": 16,
    }


def ptb_small() -> dict[str, Any]:
    """Zaremba et al. (2014), small: an LSTM of 2 x 200, no dropout, 13 epochs of Penn Treebank: about 1600 s.

    python -m experiments.train_lm --preset=ptb_small --workdir=runs/ptb_small

    Test perplexity 112.6, where 114.5 is published. Their loss is a sum over the 20 words of a window, ours a
    mean: so the rate of 1 is 20 here and the norm of 5 is 0.25. The rate is halved after each epoch from the
    fourth on. A step takes 52 ms on two cores.
    """
    epoch = 2323  # windows of 20 rows
    return {
        "corpus": "ptb",
        "level": "word",
        "model": "lstm",
        "num_layers": 2,
        "hidden_size": 200,
        "embedding_size": 200,
        "init_range": 0.1,
        "batch_size": 20,
        "num_steps": 20,
        "optimizer": "sgd",
        "learning_rate": 20.0,
        "clip_norm": 0.25,
        "schedule": "staircase",
        "warmup_steps": 0,
        "decay_begin": 3 * epoch,
        "decay_steps": epoch,
        "num_train_steps": 13 * epoch,
        "eval_every": epoch,
        "checkpoint_every": 13 * epoch,
    }


def _zaremba(hidden_size: int, init_range: float, dropout: float) -> dict[str, Any]:
    """What the two larger models of Zaremba et al. (2014) share."""
    return {
        "corpus": "ptb",
        "level": "word",
        "model": "lstm",
        "num_layers": 2,
        "hidden_size": hidden_size,
        "embedding_size": hidden_size,
        "init_range": init_range,
        "input_dropout": dropout,
        "dropout": dropout,
        "batch_size": 20,
        "num_steps": 35,
        "optimizer": "sgd",
        "learning_rate": 35.0,  # theirs is 1, of a sum over 35 words; ours is a mean
        "schedule": "staircase",
        "warmup_steps": 0,
        "eval_every": ZAREMBA_EPOCH,
        "decay_steps": ZAREMBA_EPOCH,
    }


ZAREMBA_EPOCH = 1328  # windows of 35 words in 20 rows of Penn Treebank


def ptb_medium() -> dict[str, Any]:
    """Zaremba et al. (2014), medium: an LSTM of 2 x 650, dropout 0.5, 39 epochs of Penn Treebank; for a GPU.

    python -m experiments.train_lm --preset=ptb_medium --workdir=runs/ptb_medium

    Test perplexity 82.70 is published; nobody has run it here to its end. A hundred of its 51,792 steps take
    about 60 s on two CPU cores that have other work.
    """
    return _zaremba(650, 0.05, 0.5) | {
        "clip_norm": 5.0 / 35,
        "decay_begin": 5 * ZAREMBA_EPOCH,
        "decay_factor": 1 / 1.2,
        "num_train_steps": 39 * ZAREMBA_EPOCH,
        "checkpoint_every": 3 * ZAREMBA_EPOCH,
    }


def ptb_large() -> dict[str, Any]:
    """Zaremba et al. (2014), large: an LSTM of 2 x 1,500, dropout 0.65, 55 epochs of Penn Treebank, for GPUs.

    python -m experiments.train_lm --preset=ptb_large --workdir=runs/ptb_large

    Test perplexity 78.40 is published; nobody has run it here to its end. The first two of its 73,040 steps
    were there after 123 s on two CPU cores that had other work.
    """
    return _zaremba(1500, 0.04, 0.65) | {
        "clip_norm": 10.0 / 35,
        "decay_begin": 13 * ZAREMBA_EPOCH,
        "decay_factor": 1 / 1.15,
        "num_train_steps": 55 * ZAREMBA_EPOCH,
        "checkpoint_every": 5 * ZAREMBA_EPOCH,
    }


def ptb_awd() -> dict[str, Any]:
    """AWD-LSTM (Merity et al. 2018): three layers of 1,150, 1,150 and 400 with tied embeddings; for a GPU.

    python -m experiments.train_lm --preset=ptb_awd --workdir=runs/ptb_awd

    Test perplexity 57.30 is published, of averaged weights; nobody has run it here to its end. The first two of
    its 332,000 steps were there after 238 s on two CPU cores that had other work. Their weight decay of 1.2e-6
    is left out: the optimiser sgd has none here.
    """
    epoch = 664  # windows of 70 words in 20 rows, about: their lengths vary
    return {
        "corpus": "ptb",
        "level": "word",
        "model": "lstm",
        "num_layers": 3,
        "hidden_size": 1150,
        "last_size": 400,
        "embedding_size": 400,
        "tie_embeddings": True,
        "embedding_dropout": 0.1,
        "input_dropout": 0.4,
        "dropout": 0.25,
        "output_dropout": 0.4,
        "dropout_kind": "variational",
        "weight_drop": 0.5,
        "activation_penalty": 2.0,
        "temporal_penalty": 1.0,
        "batch_size": 20,
        "num_steps": 70,
        "random_windows": True,
        "optimizer": "sgd",
        "learning_rate": 30.0,
        "clip_norm": 0.25,
        "schedule": "constant",
        "warmup_steps": 0,
        "average": "triggered",
        "average_patience": 5,
        "num_train_steps": 500 * epoch,
        "eval_every": epoch,
        "checkpoint_every": 10 * epoch,
    }


def shakespeare_mix() -> dict[str, Any]:
    """The neural half of a mixture that has 1.446 nats a character on the last tenth of tiny_shakespeare.

    python -m experiments.train_lm --preset=shakespeare_mix --workdir=runs/gru

    About 85 s; 1.54 nats alone, 1.446 when mixed by experiments.mix_models with preset shakespeare_counts of
    train_ngram. The weight is fitted on the hundredth before the last tenth, which neither was trained on.
    """
    return {
        "corpus": "tiny_shakespeare",
        "valid_fraction": 0.01,
        "test_fraction": 0.1,
        "num_train_steps": 5000,
        "eval_every": 500,
        "checkpoint_every": 2500,
    }


def shakespeare_counts() -> dict[str, Any]:
    """A 7-gram of tiny_shakespeare's characters: 1.529 nats on the last tenth, in 2 s.

    python -m experiments.train_ngram --preset=shakespeare_counts --workdir=runs/counts7
    """
    return {
        "corpus": "tiny_shakespeare",
        "order": 7,
        "discount_fallback": True,
        "valid_fraction": 0.01,
        "test_fraction": 0.1,
    }


def ptb() -> dict[str, Any]:
    """Modified Kneser-Ney of order 5 on Penn Treebank: test perplexity 141.186, in 2 s.

    python -m experiments.train_ngram --preset=ptb --workdir=runs/ptb

    The figure of the field's reference tool, but for its treatment of `<unk>` (--kenlm_compat).
    """
    return {"corpus": "ptb", "level": "word", "order": 5}


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


TRAIN_LM: tuple[Preset, ...] = (
    none,
    shakespeare_cpu,
    shakespeare_attention,
    shakespeare_mix,
    ptb_small,
    ptb_medium,
    ptb_large,
    ptb_awd,
)
TRAIN_NGRAM: tuple[Preset, ...] = (none, ptb, shakespeare_counts)
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
