"""A mixture of language models, and an average of their parameters."""

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
    dynamic_rate: float = knob(
        0.0,
        "nets go on learning from the text that they read, by steps of this rate (dynamic evaluation); 0: "
        "they do not; -1: the rate that suits the validation text best",
    )
    dynamic_segment: int = knob(32, "tokens of a step of dynamic evaluation")
    dynamic_decay: float = knob(0.0, "share by which each such step goes back to the trained parameters")


def check(config: MixtureConfig) -> MixtureConfig:
    """Return the config, or raise ValueError for too few runs or a cache of no possible size."""
    at_least(0, MOST_UNITS, cache_size=config.cache_size)
    if config.dynamic_rate != -1:
        at_least(0, 1e3, dynamic_rate=config.dynamic_rate)
    at_least(2, MOST_UNITS, dynamic_segment=config.dynamic_segment)
    below_one(dynamic_decay=config.dynamic_decay)
    moves = config.dynamic_rate != 0
    check_idle(
        (config, "dynamic_segment", moves, "a dynamic_rate"),
        (config, "dynamic_decay", moves, "a dynamic_rate"),
    )
    named = [path for path in config.runs.split(",") if path.strip()]
    if len(named) < 2 and not (named and (config.cache_size or moves)):
        raise ValueError("expected --runs=DIR,DIR, two or more, or one with --cache_size or --dynamic_rate")
    return config


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
