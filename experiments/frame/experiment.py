"""An experiment is a value: its config, what it prepares, and what it runs in a folder.

`main` is the one way in. It reads the flags, checks the config, prepares the data, opens the folder, reprints
a finished run or runs what is missing, and writes the summary.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments.frame import start, worker
from experiments.frame.command import KEEP_PROGRAMS, attempt, end
from experiments.frame.flags import (
    Given,
    config_of,
    define,
    define_path,
    define_presets,
    parse,
    preset_named,
)
from experiments.frame.launcher import launch
from experiments.frame.presets import Preset
from experiments.frame.processes import Processes, crew_of
from experiments.frame.workdir import Identity, check_same, finish, opened, told
from lmseq.config.knobs import knob


@dataclass(frozen=True)
class NoOptions:
    """No flags beside those of the config."""


class Call(NamedTuple):
    """What was asked for.

    The checked config; options that are no part of it; the names of the flags that were given; whether
    compiled programs are kept in the user's cache folder; the processes that share the run; the run's folder,
    where it has one; and whether the config is that of a run there with fewer steps.
    """

    config: Any
    options: Any
    given: frozenset[str]
    keep_programs: bool
    processes: Processes = Processes()
    workdir: Path | None = None
    extends: bool = False


@dataclass(frozen=True)
class Longer:
    """How a run is made longer: no part of what it is."""

    extend: int = knob(
        0, "beside the other flags of the run in --workdir, finished or not: go on to so many steps in all"
    )


def _facts_of(prepared: Any) -> dict[str, Any]:
    return prepared.facts()


def _succeeded(summary: Mapping[str, Any]) -> int:
    return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """What a script of a run consists of.

    module: its name after `python -m`. doc: its help. config: a class of knobs, or of sections of them.
    implied: settings that follow from those which flags and presets give, such as those that a store of
    tokens was made with, of all settings and the names of the flags given; they stand where the command line
    says nothing. check: the config, or ValueError.
    prepare: the data and the model of a call. settled: the config with what only the prepared data says, such
    as the steps of so many epochs. of_length: the config of the same run with so many steps in all, or
    ValueError where it would not begin alike; None where --extend is no flag. facts: what of the prepared is
    noted beside the run, in the file `facts_file`, and compared when it goes on. run: the work, of a call, a
    folder and what was prepared; returns the summary. status: the exit status that a summary means.

    options: knobs that are no part of the config, such as what to show. presets: named settings; quick:
    settings under --quick. left_out: knobs of the config that are no flags. num_devices: how many devices
    JAX gets; None where JAX is not prepared here. runs_again: whether a call asks for a finished run to be
    looked at again. without_workdir: work that needs no folder; the run goes on where it returns None. noun:
    what the folder holds. many_processes: whether several may share a run; its `run` then returns the summary
    in process 0, and does nothing after the training in the others. metrics: what an ablation shows of it: of
    each group, the first figure there is.
    """

    module: str
    doc: str
    config: type
    run: Callable[[Call, Path, Any], dict[str, Any]]
    prepare: Callable[[Call], Any]
    implied: Callable[[Mapping[str, Any], frozenset[str]], Mapping[str, Any]] = lambda settings, given: {}
    check: Callable[[Any], Any] = lambda config: config
    settled: Callable[[Any, Any], Any] = lambda config, prepared: config
    of_length: Callable[[Any, int], Any] | None = None
    facts: Callable[[Any], dict[str, Any]] = _facts_of
    facts_file: str = "data.json"
    status: Callable[[Mapping[str, Any]], int] = _succeeded
    options: type = NoOptions
    presets: Sequence[Preset] = ()
    quick: Mapping[str, Any] | None = None
    left_out: Sequence[str] = ()
    num_devices: Callable[[Any], int] | None = lambda config: config.train.host_devices
    runs_again: Callable[[Call], bool] = lambda call: False
    without_workdir: Callable[[Call], int | None] | None = None
    noun: str = "run"
    many_processes: bool = False
    metrics: Sequence[Sequence[str]] = ()

    @property
    def name(self) -> str:
        """The last part of the module's name."""
        return self.module.rsplit(".", 1)[-1]


def define_flags(experiment: Experiment, found: flags.FlagValues) -> list[str]:
    """All flags of an experiment; returns their names, in the order of its help."""
    meaning = f"folder of the {experiment.noun}: created, continued or, when finished, reprinted"
    define_path("workdir", None, meaning, found)
    names = ["workdir"]
    if experiment.presets:
        define_presets(experiment.presets, found)
        names.append("preset")
    if experiment.quick is not None:
        meaning = "fewer seeds, fewer steps, less data; explicit flags win"
        flags.DEFINE_bool("quick", False, meaning, flag_values=found)
        names.append("quick")
    names += define(experiment.config, found, experiment.left_out)
    if experiment.of_length is not None:
        names += define(Longer, found)
    if experiment.many_processes:
        names += define(Processes, found)
    return names + define(experiment.options, found)


def flag_names(experiment: Experiment) -> list[str]:
    """The flags of an experiment."""
    return define_flags(experiment, flags.FlagValues())


def call_of(experiment: Experiment, given: Given) -> Call:
    """The checked config and the options that flags ask for. Raises ValueError for the first mistake."""
    defaults: Mapping[str, Any] = {}
    if experiment.presets:
        defaults = preset_named(experiment.presets, given.values["preset"])
    if experiment.quick is not None and given.values["quick"]:
        defaults = experiment.quick
    chosen = {name: defaults.get(name, given.values[name]) for name in set(given.values) - given.names}
    settings = {name: given.values[name] for name in given.names} | chosen
    implied = experiment.implied(settings, frozenset(given.names))
    config = experiment.check(config_of(experiment.config, given, {**defaults, **implied}))
    extends = "extend" in given.names
    if extends:
        config = experiment.of_length(config, given.values["extend"])
    options, processes = (
        kind(**{name: given.values[name] for name in kind.__dataclass_fields__})
        for kind in (experiment.options, Processes if experiment.many_processes else NoOptions)
    )
    keep_programs = given.values.get(KEEP_PROGRAMS, True)
    return Call(config, options, given.names, keep_programs, processes, extends=extends)


def call_from_texts(experiment: Experiment, texts: Mapping[str, str]) -> Call:
    """The same of flag names to the texts of their values. Raises ValueError or `flags.Error`."""
    found = _flags_of(experiment)
    found.unparse_flags()
    return call_of(experiment, parse(found, [f"--{name}={text}" for name, text in texts.items()]))


@cache
def _flags_of(experiment: Experiment) -> flags.FlagValues:
    """Flags to be parsed again and again: to define them takes longer."""
    found = flags.FlagValues()
    define_flags(experiment, found)
    return found


def _act(experiment: Experiment, arguments: Sequence[str], given: Given) -> int:
    """The stages of every run, in this process or in those that share it."""
    missing = f"expected --workdir=DIR, the folder that the {experiment.noun} is written to"
    if not given.values["workdir"] and experiment.without_workdir is None:
        raise ValueError(missing)
    call = call_of(experiment, given)
    done = experiment.without_workdir(call) if experiment.without_workdir else None
    if done is not None:
        return done
    if not given.values["workdir"]:
        raise ValueError(missing)
    workdir = Path(given.values["workdir"])
    call = call._replace(workdir=workdir)
    if not experiment.many_processes:
        return _work(experiment, call, workdir)
    place = worker.place_here()
    if place is not None:
        with worker.Worker(place).at_work() as connect:
            return _work(experiment, call, workdir, connect)
    crew = crew_of(call.processes)
    if crew is not None:
        return launch(experiment.module, arguments, crew)
    return _work(experiment, call, workdir)


def _work(
    experiment: Experiment, call: Call, workdir: Path, connect: Callable[[], None] | None = None
) -> int:
    """Prepare, open the folder, run what is missing; `connect` joins the other processes of the run."""
    if experiment.num_devices is not None:
        start.prepare_jax(experiment.num_devices(call.config), call.keep_programs, connect)
    together = connect is not None
    prepared = _prepared(experiment, call, together)
    config, facts = experiment.settled(call.config, prepared), experiment.facts(prepared)
    run = Identity(experiment.name, config, facts, experiment.facts_file, call.extends)
    again = experiment.runs_again(call)
    with _opened(workdir, run, again, together) as finished:
        if finished is not None and not again:
            print(finished)
            return experiment.status(json.loads(finished))
        summary = experiment.run(call, workdir, prepared)
        if together and not _is_first():
            return 0
        summary.setdefault("wall_seconds", start.seconds())  # a run in several processes has said its own
        finish(workdir, summary)
    return experiment.status(summary)


def _is_first() -> bool:
    from lmseq.training.processes import is_first

    return is_first()


def _prepared(experiment: Experiment, call: Call, together: bool) -> Any:
    """The data and the model; of several processes the first reads before the others, and keeps for them."""
    if not together:
        return experiment.prepare(call)
    from lmseq.training.processes import first_then_others

    return first_then_others(partial(experiment.prepare, call))


@contextmanager
def _opened(workdir: Path, run: Identity, again: bool, together: bool) -> Iterator[str | None]:
    """`opened`, by process 0 for all, which must have been given the same."""
    if not together:
        with opened(workdir, run, again=again) as finished:
            yield finished
        return
    from lmseq.training.processes import is_first, share

    tellings = share(told(run))
    if is_first():
        check_same(run, tellings)
        with opened(workdir, run, again=again) as finished:
            share(finished)
            yield finished
    else:
        yield share(None)[0]


def attempt_experiment(experiment: Experiment, arguments: Sequence[str]) -> int:
    """The exit status of an experiment with these arguments; 2 for a mistake, which is said in one line."""
    found = flags.FlagValues()
    names = define_flags(experiment, found)
    return attempt(partial(_act, experiment, arguments), experiment.doc, found, names, arguments)


def main(experiment: Experiment) -> None:
    """What `python -m MODULE` does, to the end of the process."""
    end(partial(attempt_experiment, experiment))
