"""A mixture of language models, and an average of their parameters."""

import math
from dataclasses import dataclass
from typing import Literal

from lmseq.config.knobs import MOST_UNITS, at_least, below_one, check_idle, knob


@dataclass(frozen=True)
class MixtureConfig:
    """Models that are mixed."""

    runs: str = knob(
        "",
        "folders of runs of train_lm (also DIR:best, DIR:STEP) and train_ngram, between commas",
        is_path=True,
    )
    checkpoint: Literal["latest", "best"] = knob("latest", "of neural runs: the last parameters, or the best")
    cache_size: int = knob(0, "latest tokens in a cache around each model; 0: no cache")
    dynamic_rate: str = knob(
        "0",
        "rate at which neural runs go on learning from the text that they read; of several between commas "
        "the validation text takes the best; 0: none",
    )
    dynamic_segment: int = knob(20, "of dynamic_rate: tokens of each step of gradient descent")
    dynamic_decay: float = knob(0.0, "of dynamic_rate: part of the way back to what was trained, each step")
    dynamic_scaled: bool = knob(
        False, "of dynamic_rate: divide each gradient by its root mean square on the training text, plus 1e-3"
    )
    weight_share: str = knob(
        "1",
        "part of the weights that is as fitted after each token, the rest going to what predicted it; of "
        "several between commas the validation text takes the best; 1: all",
    )


def check(config: MixtureConfig) -> MixtureConfig:
    """Return the config, or raise ValueError for too few runs or settings out of range or without effect."""
    at_least(0, MOST_UNITS, cache_size=config.cache_size)
    at_least(1, MOST_UNITS, dynamic_segment=config.dynamic_segment)
    below_one(dynamic_decay=config.dynamic_decay)
    adapts = any(dynamic_rates(config))
    check_idle(
        *(
            (config, f"dynamic_{name}", adapts, "a dynamic_rate above 0")
            for name in ("segment", "decay", "scaled")
        ),
    )
    named = [path for path in config.runs.split(",") if path.strip()]
    if len(named) < 2 and not (named and (config.cache_size or adapts)):
        raise ValueError(
            "expected --runs=DIR,DIR, two or more, or one with --cache_size or with --dynamic_rate"
        )
    if len(named) < 2 and weight_shares(config) != (1.0,):
        raise ValueError(f"weight_share={config.weight_share} does nothing here: it is read by two runs only")
    weight_shares(config)
    return config


def dynamic_rates(config: MixtureConfig) -> tuple[float, ...]:
    """The rates of dynamic evaluation to be tried. Raises ValueError for what is no rate."""
    return _numbers("dynamic_rate", config.dynamic_rate, math.inf)


def weight_shares(config: MixtureConfig) -> tuple[float, ...]:
    """The shares of fitted weights to be tried. Raises ValueError for what is no share."""
    return _numbers("weight_share", config.weight_share, 1.0)


def _numbers(name: str, text: str, most: float) -> tuple[float, ...]:
    """Numbers from 0 to `most` between commas, without infinity."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(0.0 <= number <= most and math.isfinite(number) for number in found):
        end = "to 1" if most == 1.0 else "up"
        raise ValueError(f"expected {name} to be numbers from 0 {end} between commas, got {text!r}")
    return found


@dataclass(frozen=True)
class AverageConfig:
    """Runs whose parameters are averaged."""

    runs: str = knob(
        "", "runs of train_lm, separated by commas: DIR, or DIR:latest, DIR:best, DIR:STEP", is_path=True
    )
    checkpoint: Literal["latest", "best"] = knob("latest", "of the runs that are named without one")


def check_average(config: AverageConfig) -> AverageConfig:
    """Return the config, or raise ValueError for too few runs."""
    if len([path for path in config.runs.split(",") if path.strip()]) < 2:
        raise ValueError("expected --runs=RUN,RUN, two or more, of which the parameters are averaged")
    return config
