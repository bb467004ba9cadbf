"""What an ablation is made of: settings, seeds, and the cells that they make.

A setting is values for some of an experiment's flags, kept as the text that a command line has; a cell is one
setting with one seed.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments import average, compare_objectives, mix_models, predict_series, train_lm, train_ngram
from experiments.ablation.settings import (
    MOST_CELLS,
    Setting,
    label,
    pairs_of,
    read_fixed,
    read_settings,
    read_sweep,
    read_value,
)
from experiments.ablation.space import draw, read_space
from experiments.claims.catalogue import CLAIMS
from experiments.frame.experiment import Experiment, Longer, flag_names
from experiments.frame.processes import Processes
from experiments.frame.profile import ProfileOptions
from lmseq.config import knobs
from lmseq.config.knobs import knob
from lmseq.config.language_model import CourseConfig

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
TOGETHER = (train_lm.EXPERIMENT, predict_series.EXPERIMENT)  # whose cells can be trained in one program
# What only a run of its own can do: checkpoints, evaluations on the way, work shared by devices or processes.
APART = ("host_devices", "shard", "checkpoint_every", "keep_checkpoints", "eval_every", "target_loss")
APART += ("plateau_patience", "average", "random_windows")
APART += (*Processes.__dataclass_fields__, *Longer.__dataclass_fields__, *CourseConfig.__dataclass_fields__)
APART += tuple(ProfileOptions.__dataclass_fields__)


@dataclass(frozen=True)
class SweepConfig:
    """Which cells there are."""

    experiment: str = knob("train_lm", "what is run: train_lm, predict_series, a claim, ...")
    sweep: str = knob("", "grid of settings: 'hidden_size=64,128 learning_rate=1e-3,3e-3', all combinations")
    settings: str = knob(
        "", "instead of --sweep: a JSON file, a list of objects from flag names to values", is_path=True
    )
    search: str = knob(
        "",
        "instead of --sweep: settings are drawn, by --first_seed, from ranges and lists, and successive "
        "halving finds the best: 'learning_rate=1e-4..1e-1:log dropout=0..0.6 model=gru,lstm'",
    )
    trials: int = knob(64, "of --search: settings that are drawn")
    halving: int = knob(4, "of --search: of so many trials the best goes on, to so many times the steps")
    rungs: int = knob(
        0,
        "of --search: lengths that trials are compared at; more of them cost less, and drop trials sooner; "
        "0: 3, or 2 where these leave one trial",
    )
    rounds: int = knob(
        0,
        "of --search: the first round draws half of the trials from all of the space, the others share the "
        "rest, each around the best so far; 1: all from all of the space; 0: 3, or 1 of few trials, and of "
        "lists alone",
    )
    fixed: str = knob("", "flags of every cell: 'corpus=tiny_shakespeare num_train_steps=500'")
    first_seed: int = knob(
        0, "the seeds are first_seed ... first_seed + seeds - 1; of --search, those of the best are the next"
    )
    seeds: int = knob(3, "seeds of each setting, or of the best that --search finds; one has no intervals")
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
        """Those of each setting; of a search, those of the best, which no trial had."""
        first = self.config.first_seed + bool(self.config.search)
        return range(first, first + self.config.seeds)

    def cells(self) -> list[Cell]:
        """One a setting and seed, those of a setting beside each other."""
        return [cell for number in range(len(self.settings)) for cell in self.cells_of(number, self.seeds)]

    def cells_of(self, number: int, seeds: Sequence[int]) -> list[Cell]:
        """The cells of one setting with some seeds."""
        setting = self.settings[number]
        told = re.sub(r"[^\w.=+-]+", "_", label(setting).replace(" ", "-"))[:80]
        return [Cell(f"{number}-{told}-seed={seed}", setting, self.fixed | setting, seed) for seed in seeds]

    def facts(self) -> dict[str, Any]:
        """What an ablation's folder was begun with; what a search draws follows from its config."""
        settings = {"fixed": self.fixed} | ({} if self.config.search else {"settings": self.settings})
        return {"experiment": self.config.experiment, **settings, "seeds": list(self.seeds)}


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
    _check_ways(config)
    searched, settings = dict(pairs_of(config.search, "search")), []
    if config.sweep.strip():
        settings = read_sweep(config.sweep)
    elif config.settings:
        settings = read_settings(Path(config.settings))
    fixed = read_fixed(config.fixed)
    names = tuple(searched or dict.fromkeys(name for setting in settings for name in setting))
    both = [name for name in names if name in fixed]
    if both:
        raise ValueError(f"{both[0]} is both fixed and varied: leave it out of --fixed")
    experiment = experiment_named(config.experiment)
    known = flag_names(experiment)
    check_names([*names, *fixed], known, experiment)
    num_settings = config.trials if searched else len(settings)
    if num_settings * config.seeds > MOST_CELLS:
        raise ValueError(f"expected at most {MOST_CELLS:,} cells, got {num_settings * config.seeds:,}")
    if searched:
        settings = draw(read_space(searched, experiment), config.trials, config.first_seed)
    has_seed = "seed" in known
    if not has_seed and (config.seeds > 1 or config.first_seed):
        raise ValueError(f"{config.experiment} has no --seed: give --seeds=1 and no --first_seed")
    return Design(config, experiment, names, settings, fixed, has_seed)


def _check_ways(config: SweepConfig) -> None:
    """ValueError unless settings come from one place, with the knobs of that place."""
    if config.search and not config.search.strip():
        raise ValueError("expected --search='name=LOW..HIGH ...', got blanks: leave it out")
    ways = (config.sweep.strip(), config.settings, config.search.strip())
    if sum(map(bool, ways)) != 1:
        raise ValueError(
            "expected one of --sweep='name=a,b ...', --settings=FILE.json and --search='name=LOW..HIGH ...', "
            "and not several"
        )
    knobs.at_least(1, trials=config.trials)
    if config.separate and config.search:
        raise ValueError("--search trains its trials together: leave --separate out")
    knobs.check_idle(
        *(
            (config, name, bool(config.search.strip()), "--search")
            for name in ("trials", "halving", "rungs", "rounds")
        )
    )


def find_setting(design: Design, text: str) -> Setting:
    """The one setting that has the values named, as in `tau=4`; ValueError for none or several."""
    wanted = pairs_of(text, "compare")
    if not wanted:
        raise ValueError("expected --compare='name=value ...', a setting of the sweep")

    def matches(setting: Setting) -> bool:
        return all(name in setting and read_value(setting[name]) == read_value(v) for name, v in wanted)

    found = [setting for setting in design.settings if matches(setting)]
    if len(found) != 1:
        told = "; ".join(label(setting) for setting in (found or design.settings)[:8])
        raise ValueError(f"expected --compare to match one setting, {text!r} matches {len(found)}: {told}")
    return found[0]
