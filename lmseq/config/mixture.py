"""A mixture of language models, and an average of their parameters."""

from dataclasses import dataclass
from typing import Literal

from lmseq.config.knobs import MOST_UNITS, at_least, knob


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


def check(config: MixtureConfig) -> MixtureConfig:
    """Return the config, or raise ValueError for too few runs or a cache of no possible size."""
    at_least(0, MOST_UNITS, cache_size=config.cache_size)
    named = [path for path in config.runs.split(",") if path.strip()]
    if len(named) < 2 and not (named and config.cache_size):
        raise ValueError("expected --runs=DIR,DIR, two or more, or one with --cache_size")
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
