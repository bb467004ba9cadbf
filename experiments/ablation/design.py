"""What an ablation is made of: settings, seeds, and the cells that they make.

A setting is values for some of an experiment's flags, kept as the text that a command line has; a cell is one
setting with one seed.
"""

import difflib
import math
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from experiments import average, compare_objectives, mix_models, predict_series, train_lm, train_ngram
from experiments.claims.catalogue import CLAIMS
from experiments.frame.experiment import Experiment, flag_names
from lmseq.config import knobs
from lmseq.config.knobs import knob
from lmseq.files import read_json

EXPERIMENTS: tuple[Experiment, ...] = (
    train_lm.EXPERIMENT,
    train_ngram.EXPERIMENT,
    predict_series.EXPERIMENT,
    compare_objectives.EXPERIMENT,
    mix_models.EXPERIMENT,
    average.EXPERIMENT,
    *CLAIMS,
)
OWN = ("workdir", "seed")  # flags of an experiment that its ablation gives itself
MOST_CELLS = 100_000
TOGETHER = (train_lm.EXPERIMENT, predict_series.EXPERIMENT)  # whose cells can be trained in one program

Setting = dict[str, str]  # flag names to the text of their values


@dataclass(frozen=True)
class SweepConfig:
    """Which cells there are."""

    experiment: str = knob("train_lm", "what is run: train_lm, predict_series, a claim, ...")
    sweep: str = knob("", "grid of settings: 'hidden_size=64,128 learning_rate=1e-3,3e-3', all combinations")
    settings: str = knob(
        "", "instead of --sweep: a JSON file, a list of objects from flag names to values", is_path=True
    )
    fixed: str = knob("", "flags of every cell: 'corpus=tiny_shakespeare num_train_steps=500'")
    first_seed: int = knob(0, "the seeds are first_seed ... first_seed + seeds - 1")
    seeds: int = knob(3, "seeds of each setting; one has no intervals")
    separate: bool = knob(
        False, "a process and a run folder for each cell, also where many can be trained in one program"
    )


class Cell(NamedTuple):
    """One setting with one seed: its unique name, the setting, all flags of it but the seed's, the seed."""

    name: str
    setting: Setting
    flags: Setting
    seed: int


class Design(NamedTuple):
    """All cells, setting by setting; `names` of the flags that settings give; whether seeds are passed on."""

    config: SweepConfig
    experiment: Experiment
    names: tuple[str, ...]
    settings: list[Setting]
    fixed: Setting
    has_seed: bool

    @property
    def seeds(self) -> range:
        return range(self.config.first_seed, self.config.first_seed + self.config.seeds)

    def cells(self) -> list[Cell]:
        """One a setting and seed, those of a setting beside each other."""
        found = []
        for number, setting in enumerate(self.settings):
            told = re.sub(r"[^\w.=+-]+", "_", label(setting).replace(" ", "-"))[:80]
            found += [
                Cell(f"{number}-{told}-seed={seed}", setting, self.fixed | setting, seed)
                for seed in self.seeds
            ]
        return found

    def facts(self) -> dict[str, Any]:
        """What an ablation's folder was begun with."""
        settings = {"fixed": self.fixed, "settings": self.settings}
        return {"experiment": self.config.experiment, **settings, "seeds": list(self.seeds)}


def label(setting: Setting) -> str:
    """A setting in a few words: `tau=4 head=normal`."""
    return " ".join(f"{name}={value}" for name, value in setting.items()) or "as it is"


def read_value(text: str) -> bool | int | float | str:
    """A flag's text as the number or truth value that it is; other text as it stands."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def _pairs(text: str, flag: str) -> list[tuple[str, str]]:
    """name=value parts of a flag's text, in order; ValueError for other parts and for a name twice."""
    pairs = []
    for part in text.split():
        name, equals, value = part.removeprefix("--").partition("=")
        if not equals or not name.isidentifier() or not value:
            raise ValueError(f"expected --{flag}='name=value name=value ...', got {part!r} in it")
        if name in dict(pairs):
            raise ValueError(f"{name} stands twice in --{flag}={text!r}: give all its values in one place")
        pairs.append((name, value))
    return pairs


def read_fixed(text: str) -> Setting:
    """The flags of every cell. Raises ValueError for text that is not name=value parts."""
    return dict(_pairs(text, "fixed"))


def read_sweep(text: str) -> list[Setting]:
    """All combinations of `a=1,2 b=x,y`, the last name varying fastest.

    Raises ValueError for malformed parts and for values that are empty or stand twice.
    """
    pairs = _pairs(text, "sweep")
    values = [value.split(",") for _, value in pairs]
    for (name, whole), parts in zip(pairs, values, strict=True):
        if "" in parts:
            raise ValueError(f"an empty value among those of {name}: {whole!r}")
        _refuse_twice([{name: part} for part in parts], "sweep")
    if math.prod(map(len, values)) > MOST_CELLS:
        raise ValueError(f"expected at most {MOST_CELLS:,} settings, got {math.prod(map(len, values)):,}")
    return [dict(zip(dict(pairs), chosen, strict=True)) for chosen in product(*values)]


def read_settings(path: Path) -> list[Setting]:
    """Settings from a JSON file; ValueError unless it is a list of different objects of plain values."""
    listed = read_json(path)
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) and one for one in listed):
        raise ValueError(f"expected {path} to hold a list of objects from flag names to values")
    settings = [{name: _text(name, value, path) for name, value in one.items()} for one in listed]
    _refuse_twice(settings, "settings")
    return settings


def _text(name: str, value: Any, path: Path) -> str:
    if type(value) is bool:
        return str(value).lower()
    if type(value) not in (int, float, str) or value == "":
        raise ValueError(f"expected {name} in {path} to be a number, a text, true or false, got {value!r}")
    return str(value)


def _refuse_twice(settings: list[Setting], flag: str) -> None:
    seen = set()
    for setting in settings:
        typed = {name: read_value(text) for name, text in setting.items()}
        # 1 and 1.0 are the same number; 1 and true, which are equal too, are not the same value.
        key = frozenset((name, value, isinstance(value, bool)) for name, value in typed.items())
        if key in seen:
            raise ValueError(f"{label(setting)} stands twice in --{flag}")
        seen.add(key)


def experiment_named(name: str) -> Experiment:
    """The experiment of that name; ValueError for a name that none has."""
    found = next((each for each in EXPERIMENTS if each.name == name), None)
    if found is None:
        names = [each.name for each in EXPERIMENTS]
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
        raise ValueError(f"unknown experiment {name!r}: {hint}")
    return found


def check_names(names: list[str], known: list[str], experiment: Experiment) -> None:
    """ValueError for the first name that is no flag of the experiment, or that the ablation gives itself."""
    for name in names:
        if name in OWN:
            raise ValueError(f"--{name} of a cell is given by the ablation: see --first_seed, --seeds")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean --{near[0]}?" if near else f"see python -m {experiment.module} --help"
            raise ValueError(f"{experiment.name} has no flag --{name}: {hint}")


def read_design(config: SweepConfig) -> Design:
    """The cells that a config asks for. Raises ValueError for the first thing that is wrong with it."""
    knobs.at_least(1, seeds=config.seeds)
    knobs.at_least(0, first_seed=config.first_seed)
    if bool(config.sweep.strip()) == bool(config.settings):
        raise ValueError("expected --sweep='name=a,b ...' or --settings=FILE.json, and not both")
    settings = read_settings(Path(config.settings)) if config.settings else read_sweep(config.sweep)
    fixed = read_fixed(config.fixed)
    names = tuple(dict.fromkeys(name for setting in settings for name in setting))
    both = [name for name in names if name in fixed]
    if both:
        raise ValueError(f"{both[0]} is both fixed and varied: leave it out of --fixed")
    experiment = experiment_named(config.experiment)
    known = flag_names(experiment)
    check_names([*names, *fixed], known, experiment)
    has_seed = "seed" in known
    if not has_seed and (config.seeds > 1 or config.first_seed):
        raise ValueError(f"{config.experiment} has no --seed: give --seeds=1 and no --first_seed")
    if len(settings) * config.seeds > MOST_CELLS:
        raise ValueError(f"expected at most {MOST_CELLS:,} cells, got {len(settings) * config.seeds:,}")
    return Design(config, experiment, names, settings, fixed, has_seed)


def find_setting(design: Design, text: str) -> Setting:
    """The one setting that has the values named, as in `tau=4`; ValueError for none or several."""
    wanted = _pairs(text, "compare")
    if not wanted:
        raise ValueError("expected --compare='name=value ...', a setting of the sweep")

    def matches(setting: Setting) -> bool:
        return all(name in setting and read_value(setting[name]) == read_value(v) for name, v in wanted)

    found = [setting for setting in design.settings if matches(setting)]
    if len(found) != 1:
        told = "; ".join(label(setting) for setting in (found or design.settings)[:8])
        raise ValueError(f"expected --compare to match one setting, {text!r} matches {len(found)}: {told}")
    return found[0]
