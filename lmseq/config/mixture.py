"""A mixture of language models."""

from dataclasses import dataclass, field
from typing import Literal

from lmseq.config.knobs import knob


@dataclass(frozen=True)
class MixtureConfig:
    """Models that are mixed."""

    runs: str = knob("", "folders of runs of train_lm and train_ngram, separated by commas")
    checkpoint: Literal["latest", "best"] = knob("latest", "of neural runs: the last parameters, or the best")
    cache_size: int = knob(0, "latest tokens in a cache around each model; 0: no cache")


@dataclass(frozen=True)
class MixConfig:
    """All of a mixture's run."""

    mixture: MixtureConfig = field(default_factory=MixtureConfig)
