"""Cells of an ablation that are trained together: seeds, and settings that are only numbers, in one program.

What is computed for a cell equals, to rounding, what the script alone computes from the same flags and seed.
"""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
from absl import flags

from experiments.ablation.design import APART, TOGETHER, Cell, Design
from experiments.ablation.records import record_of
from experiments.frame.command import USER_ERRORS
from experiments.frame.experiment import Experiment, call_from_texts
from experiments.frame.progress import steps_bar
from experiments.series.evaluate import evaluate
from experiments.series.loading import load
from experiments.series.stages import summary_of
from experiments.text import report, stages
from experiments.text.evaluate import split_figures
from experiments.text.loading import FRACTIONS, load_texts, text_of
from lmseq.config import knobs
from lmseq.config import series as series_config
from lmseq.config.language_model import LanguageModelConfig
from lmseq.config.series import SeriesConfig, segment_length
from lmseq.contract import Model
from lmseq.models.build import model_of
from lmseq.models.interface import bind
from lmseq.training import ensemble
from lmseq.training.fit import train_members
from lmseq.training.gradient import Objective
from lmseq.training.job import Batches
from lmseq.training.memory import check_memory
from lmseq.training.objectives import make_objective
from lmseq.training.optimizer import Number
from lmseq.training.regularised import objective_of
from lmseq.training.state import LoopState
from lmseq.types import Params, Stream

Config = LanguageModelConfig | SeriesConfig


class Group(NamedTuple):
    """Cells that go together, with a config each; `configs` is None of cells that run as processes."""

    cells: list[Cell]
    configs: list[Config] | None


class Work(NamedTuple):
    """What trains and judges the members of a group.

    streams: one for each different seed, or one for all. valid_loss: nats an element of the validation part.
    """

    model: Model
    streams: list[Stream]
    batches: Batches
    objective: Objective
    figures: Callable[[Config, Params], dict[str, Any]]
    valid_loss: Callable[[Config, Params], float | None]


def groups(design: Design) -> list[Group]:
    """All cells in groups: those that one program can train, and every other by itself."""
    cells = design.cells()
    apart = design.config.separate
    return grouped(cells, [None if apart else config_of(design.experiment, cell) for cell in cells])


def grouped(cells: Sequence[Cell], configs: Sequence[Config | None]) -> list[Group]:
    """Cells with their configs in groups, each with what it can be trained with; None: with no other."""
    found: dict[str, tuple[list[Cell], list[Config | None]]] = {}
    for cell, config in zip(cells, configs, strict=True):
        group = cell.name if config is None else structure(config, frozenset(cell.flags) & FRACTIONS)
        mine, known = found.setdefault(group, ([], []))
        mine.append(cell)
        known.append(config)
    return [Group(mine, None if None in known else known) for mine, known in found.values()]


def config_of(experiment: Experiment, cell: Cell) -> Config | None:
    """The checked config of a cell that can be trained with others; None where its script runs it."""
    if experiment not in TOGETHER or set(cell.flags) & set(APART):
        return None
    try:
        config = call_from_texts(experiment, {**cell.flags, "seed": str(cell.seed)}).config
    except (ValueError, flags.Error):
        return None  # the script says what is wrong
    if isinstance(config, LanguageModelConfig):
        return config
    # A validation part chooses a checkpoint, which is evaluated on the way.
    is_alike = series_config.trains(config) and not series_config.has_validation(config.data)
    return config if is_alike else None


def structure(config: Config, given: frozenset[str] = frozenset()) -> str:
    """What members of a program have in common: all but the seed and the numbers that are switched on.

    given: flags whose being there matters, whatever their values.
    """
    flat = knobs.to_flat(config)
    numbers = {name: bool(flat[name]) for name in ensemble.NUMERIC if name in flat}
    return repr((sorted((flat | {"seed": 0} | numbers).items()), sorted(given)))


def members_of(known: Sequence[Config], traced: Sequence[str] = ()) -> ensemble.Members:
    """The seeds, and the numbers that differ; the last member again where that evens out the devices.

    traced: numbers that are the members' own even where they are all alike. Then what a CPU computes for a
    member is the same, bit for bit, whichever others there are; so a lone one stands on two devices, too.
    """
    num_devices = jax.device_count()
    missing = -len(known) % num_devices if len(known) > num_devices else 0
    if traced and len(known) == 1 < num_devices:
        missing = 1
    known = [*known, *known[-1:] * missing]
    flat = [knobs.to_flat(each) for each in known]
    numbers = {name: tuple(each[name] for each in flat) for name in ensemble.NUMERIC if name in flat[0]}
    varied = {
        name: values
        for name, values in numbers.items()
        if len(set(values)) > 1 or (name in traced and all(values))
    }
    return ensemble.Members(tuple(each.train.seed for each in known), varied)


def train_together(
    known: Sequence[Config],
    work: Work,
    begin: Sequence[LoopState] | None = None,
    cuts: Sequence[tuple[int, int]] | None = None,
    check: ensemble.Check | None = None,
    traced: Sequence[str] = (),
) -> list[LoopState]:
    """The state of each config's training at the end of `cuts`.

    traced: as in `members_of`; the rest as in `train_members`.
    """
    members, train = members_of(known, traced), known[0].train
    if begin is not None:
        begin = [*begin, *begin[-1:] * (len(members.seeds) - len(known))]
    with steps_bar(cuts[-1][1] if cuts else train.num_train_steps) as show:
        found = train_members(
            work.model,
            work.streams,
            train,
            members,
            batches=work.batches,
            objective=work.objective,
            parts=partial(parts_of, known[0], work),
            begin=begin,
            cuts=cuts,
            check=check,
            on_steps=show,
        )
    return found[: len(known)]


def parts_of(config: Config, work: Work, numbers: Mapping[str, Number]) -> tuple[Model, Objective]:
    """Model and objective with a member's numbers in place of the common ones."""
    model, objective = work.model, work.objective
    if "dropout" in numbers:
        model = bind(model.module.with_dropout(numbers["dropout"]))
    chosen = {name: numbers[name] for name in ("input_noise", "sampling_rate") if name in numbers}
    if chosen:
        objective = make_objective(replace(config, objective=replace(config.objective, **chosen)))
    return model, objective


def run_together(group: Group) -> Iterator[dict[str, Any]]:
    """Train the cells of a group in one program, and judge each. Raises what its training raises."""
    begun = time.monotonic()
    with quietly():
        work = work_of(group)
    check_memory(work.model, len(group.cells))
    found = train_together(group.configs, work)
    share = (time.monotonic() - begun) / len(group.cells)
    for cell, config, state in zip(group.cells, group.configs, found, strict=True):
        begun, error, figures = time.monotonic(), None, {}
        try:
            with quietly():
                figures = work.figures(config, state.state.params)
        except USER_ERRORS as failure:
            error = " ".join(str(failure).split())
        spent = share + time.monotonic() - begun
        yield record_of(cell, figures | ({} if error else {"wall_seconds": spent}), error, spent)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the lines of progress that a run of its own would say."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def work_of(group: Group) -> Work:
    """Data, model and figures of configs that are alike but for seeds and numbers."""
    first = group.configs[0]
    if isinstance(first, SeriesConfig):
        return series_work(group.configs)
    return text_work(first, frozenset(group.cells[0].flags) & FRACTIONS)


def series_work(known: Sequence[SeriesConfig]) -> Work:
    """As `predict_series` has it: every seed generates a series of its own."""
    loaded = {each.train.seed: load(each) for each in {c.train.seed: c for c in known}.values()}
    config, first = known[0], loaded[known[0].train.seed]
    model = model_of(config, first)

    def figures(config: SeriesConfig, params: Params) -> dict[str, Any]:
        return summary_of(config, loaded[config.train.seed], model, params)

    def valid_loss(config: SeriesConfig, params: Params) -> float | None:
        ahead = series_config.num_direct(config)
        return evaluate(loaded[config.train.seed], model, ahead, params, 0)["valid_loss"]

    streams = [each.train for each in loaded.values()]
    batches = Batches(config.data.batch_size, segment_length(config), first.partition)
    return Work(model, streams, batches, make_objective(config), figures, valid_loss)


read_texts = cache(load_texts)  # once for all groups


def text_work(config: LanguageModelConfig, given: frozenset[str]) -> Work:
    """As `train_lm` has it: one text for all."""
    prepared = stages.prepare(config, read_texts(text_of(config), given))

    def figures(config: LanguageModelConfig, params: Params) -> dict[str, Any]:
        return report.figures(prepared._replace(config=config), params)

    def valid_loss(config: LanguageModelConfig, params: Params) -> float | None:
        return split_figures(prepared._replace(config=config), params, "valid")["valid_loss"]

    streams, objective = [prepared.texts.ids["train"]], objective_of(config.loss)
    return Work(prepared.model, streams, stages.batches_of(config), objective, figures, valid_loss)
