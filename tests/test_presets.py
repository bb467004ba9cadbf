"""Named settings: each is one that its script takes, and says what to expect of it."""

import re

import pytest

from experiments.frame import presets
from lmseq.config import counts as counts_config
from lmseq.config import knobs, language_model
from lmseq.config import series as series_config
from lmseq.config.counts import NgramConfig
from lmseq.config.language_model import LanguageModelConfig
from lmseq.config.series import SeriesConfig

SCRIPTS = {
    "train_lm": (presets.TRAIN_LM, LanguageModelConfig, language_model.check),
    "train_ngram": (presets.TRAIN_NGRAM, NgramConfig, counts_config.check),
    "predict_series": (presets.PREDICT_SERIES, SeriesConfig, series_config.check),
}
ALL = [(script, preset) for script, (known, _, _) in SCRIPTS.items() for preset in known]


@pytest.mark.parametrize("script, preset", ALL, ids=lambda each: getattr(each, "__name__", each))
def test_a_preset_is_taken_by_its_script(script, preset):
    _, kind, check = SCRIPTS[script]
    check(knobs.from_flat(preset(), kind))


@pytest.mark.parametrize(
    "script, preset", [pair for pair in ALL if pair[1] is not presets.none], ids=lambda each: str(each)[:20]
)
def test_a_preset_says_command_time_and_figure(script, preset):
    said = " ".join(preset.__doc__.split())
    assert f"python -m experiments.{script} --preset={preset.__name__} --workdir=" in said
    assert re.search(r"\d+ s\b", said) and re.search(r"\d\.\d\d", said)
