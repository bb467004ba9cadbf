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

from experiments.ablation.design import TOGETHER, Cell, Design
from experiments.ablation.records import record_of
from experiments.frame.command import USER_ERRORS
from experiments.frame.experiment import Experiment, Longer, call_from_texts
from experiments.frame.processes import Processes
from experiments.frame.progress import steps_bar
from experiments.series.loading import load
from experiments.series.stages import summary_of
from experiments.text import report, stages
from experiments.text.loading import FRACTIONS, load_texts
from lmseq.config import knobs
from lmseq.config import series as series_config
from lmseq.config.language_model import CourseConfig, LanguageModelConfig
from lmseq.config.series import SeriesConfig, segment_length
from lmseq.config.text import TextConfig
from lmseq.contract import Model
from lmseq.models.build import model_of
from lmseq.models.interface import bind
from lmseq.training import ensemble
from lmseq.training.fit import fit_members
from lmseq.training.gradient import Objective
from lmseq.training.job import Batches
from lmseq.training.memory import check_memory
from lmseq.training.objectives import make_objective
from lmseq.training.optimizer import Number
from lmseq.training.regularised import objective_of
from lmseq.types import Params, Stream

Config = LanguageModelConfig | SeriesConfig
# What only a run of its own can do: checkpoints, evaluations on the way, work shared by devices or processes.
APART = ("host_devices", "shard", "checkpoint_every", "keep_checkpoints", "eval_every", "target_loss")
APART += ("plateau_patience", "average", "random_windows")
APART += (*Processes.__dataclass_fields__, *Longer.__dataclass_fields__, *CourseConfig.__dataclass_fields__)


class Group(NamedTuple):
    """Cells that go together, with a config each; `configs` is None of cells that run as processes."""

    cells: list[Cell]
    configs: list[Config] | None


class Work(NamedTuple):
    """What trains and judges the members of a group.

    streams: one for each different seed, or one for all.
    """

    model: Model
    streams: list[Stream]
    batches: Batches
    objective: Objective
    figures: Callable[[Config, Params], dict[str, Any]]


def groups(design: Design) -> list[Group]:
    """All cells in groups: those that one program can train, and every other by itself."""
    found: dict[str, tuple[list[Cell], list[Config | None]]] = {}
    for cell in design.cells():
        config = None if design.config.separate else config_of(design.experiment, cell)
        group = cell.name if config is None else structure(config, frozenset(cell.flags) & FRACTIONS)
        cells, known = found.setdefault(group, ([], []))
        cells.append(cell)
        known.append(config)
    return [Group(cells, None if None in known else known) for cells, known in found.values()]


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


def members_of(known: Sequence[Config]) -> ensemble.Members:
    """The seeds, and the numbers that differ; the last member again where that evens out the devices."""
    num_devices = jax.device_count()
    missing = -len(known) % num_devices if len(known) > num_devices else 0
    known = [*known, *known[-1:] * missing]
    flat = [knobs.to_flat(each) for each in known]
    numbers = {name: tuple(each[name] for each in flat) for name in ensemble.NUMERIC if name in flat[0]}
    varied = {name: values for name, values in numbers.items() if len(set(values)) > 1}
    return ensemble.Members(tuple(each.train.seed for each in known), varied)


def train_together(known: Sequence[Config], work: Work) -> list[Params]:
    """The parameters of each config's training."""
    members, train = members_of(known), known[0].train
    with steps_bar(train.num_train_steps) as show:
        found = fit_members(
            work.model,
            work.streams,
            train,
            members.seeds,
            batches=work.batches,
            objective=work.objective,
            settings=members.settings,
            parts=partial(parts_of, known[0], work),
            on_steps=show,
        )
    return found[: len(known)]


def parts_of(config: Config, work: Work, numbers: Mapping[str, Number]) -> tuple[Model, Objective]:
    """Model and objective with a member's numbers in place of the common ones."""
    model, objective = work.model, work.objective
    if "dropout" in numbers:
        model = bind(model.module.clone(dropout=numbers["dropout"]))
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
    for cell, config, params in zip(group.cells, group.configs, found, strict=True):
        begun, error, figures = time.monotonic(), None, {}
        try:
            with quietly():
                figures = work.figures(config, params)
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

    streams = [each.train for each in loaded.values()]
    batches = Batches(config.data.batch_size, segment_length(config), first.partition)
    return Work(model, streams, batches, make_objective(config), figures)


read_texts = cache(load_texts)  # once for all groups


def text_work(config: LanguageModelConfig, given: frozenset[str]) -> Work:
    """As `train_lm` has it: one text for all."""
    text = {name: getattr(config.data, name) for name in TextConfig.__dataclass_fields__}
    prepared = stages.prepare(config, read_texts(TextConfig(**text), given))

    def figures(config: LanguageModelConfig, params: Params) -> dict[str, Any]:
        return report.figures(prepared._replace(config=config), params)

    stream = prepared.texts.ids["train"]
    return Work(prepared.model, [stream], stages.batches_of(config), objective_of(config.loss), figures)
