"""Cells of an ablation that are trained together: seeds, and settings that are only numbers, in one program.

What is computed for a cell equals, to rounding, what the script alone computes from the same flags and seed.
"""

import contextlib
import dataclasses
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from absl import flags

from experiments.ablation.design import Cell, Design, Setting, record_of
from experiments.frame import presets
from experiments.frame.command import USER_ERRORS
from experiments.frame.progress import steps_bar
from lmseq.config import knobs, language_model
from lmseq.config import series as series_config
from lmseq.config.language_model import LanguageModelConfig
from lmseq.config.series import SeriesConfig
from lmseq.config.text import TextConfig
from lmseq.contract import Model
from lmseq.data.partition import check_stream, sliding
from lmseq.models.interface import bind, count_parameters
from lmseq.training import ensemble, train_step
from lmseq.training.fit import fit_members
from lmseq.training.job import Batches
from lmseq.training.memory import check_memory
from lmseq.training.objectives import scheduled_sampling, teacher_forcing
from lmseq.training.optimizer import Number
from lmseq.training.state import split_key
from lmseq.types import Params, Stream

Config = LanguageModelConfig | SeriesConfig
KINDS: dict[str, type] = {"train_lm": LanguageModelConfig, "predict_series": SeriesConfig}
# What only a run of its own can do: checkpoints, evaluations on the way, a batch shared by devices.
APART = ("host_devices", "checkpoint_every", "keep_checkpoints", "eval_every", "target_loss")


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
    objective: train_step.Objective
    figures: Callable[[Config, Params], dict[str, Any]]


def config_of(kind: type, texts: Setting, seed: int) -> Config:
    """The checked config of flags as texts. Raises ValueError for the first that it cannot hold.

    Of a preset, the settings stand where the flags say nothing, as in the scripts.
    """
    known = presets.PREDICT_SERIES if kind is SeriesConfig else presets.TRAIN_LM
    preset = {each.__name__: each for each in known}.get(texts.get("preset", "none"))
    if preset is None:
        raise ValueError(f"unknown preset {texts['preset']!r}")
    parsers = {int: flags.IntegerParser(), float: flags.FloatParser(), bool: flags.BooleanParser()}
    fields = [knob for section in knobs.sections(kind).values() for knob in dataclasses.fields(section)]
    kinds = {knob.name: str if get_args(knob.type) else knob.type for knob in fields}
    given = {name: text for name, text in texts.items() if name != "preset"}
    values = {
        name: text if kinds[name] is str else parsers[kinds[name]].parse(text) for name, text in given.items()
    }
    config = knobs.from_flat({**preset(), **values, "seed": seed}, kind)
    return series_config.check(config) if kind is SeriesConfig else language_model.check(config)


def groups(design: Design) -> list[Group]:
    """All cells in groups: those that one program can train, and every other by itself."""
    experiment, found = design.config.experiment, {}
    kind = None if design.config.separate else KINDS.get(experiment)
    for cell in design.cells():
        config = kind and _config(kind, cell)
        key = cell.name if config is None else structure(config)
        cells, known = found.setdefault(key, ([], []))
        cells.append(cell)
        known.append(config)
    return [Group(cells, None if None in known else known) for cells, known in found.values()]


def _config(kind: type, cell: Cell) -> Config | None:
    """The config of a cell that can be trained with others; None of one that is left to its script."""
    known = {knob.name for section in knobs.sections(kind).values() for knob in dataclasses.fields(section)}
    if set(cell.flags) - known - {"preset"} or set(cell.flags) & set(APART):
        return None
    try:
        config = config_of(kind, cell.flags, cell.seed)
    except ValueError:
        return None  # the script says what is wrong
    return config if kind is LanguageModelConfig or series_config.trains(config) else None


def structure(config: Config) -> str:
    """What members of a program have in common: all but the seed and the numbers that are switched on."""
    flat = knobs.to_flat(config)
    numbers = {name: bool(flat[name]) for name in ensemble.NUMERIC if name in flat}
    return repr(sorted((flat | {"seed": 0} | numbers).items()))


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
            on_dispatch=show,
        )
    return found[: len(known)]


def parts_of(config: Config, work: Work, numbers: Mapping[str, Number]) -> tuple[Model, train_step.Objective]:
    """Model and objective with a member's numbers in place of the common ones."""
    model, objective = work.model, work.objective
    if "dropout" in numbers:
        model = bind(model.module.clone(dropout=numbers["dropout"]))
    if "input_noise" in numbers:
        objective = partial(teacher_forcing, tau=config.model.tau, noise=numbers["input_noise"])
    if "sampling_rate" in numbers:
        steps = config.train.num_train_steps
        rate = numbers["sampling_rate"]
        objective = partial(scheduled_sampling, tau=config.model.tau, rate=rate, num_train_steps=steps)
    return model, objective


def run_together(group: Group) -> Iterator[dict[str, Any]]:
    """Train the cells of a group in one program, and judge each. Raises what its training raises."""
    begun = time.monotonic()
    with quietly():
        work = work_of(group.configs)
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


def work_of(known: Sequence[Config]) -> Work:
    """Data, model and judge of configs that are alike but for seeds and numbers."""
    return series_work(known) if isinstance(known[0], SeriesConfig) else text_work(known[0])


def series_work(known: Sequence[SeriesConfig]) -> Work:
    """As `predict_series` has it: every seed generates a series of its own."""
    from experiments.series import forecasts
    from experiments.series.loading import prepare
    from lmseq.config.series import segment_length
    from lmseq.models.build import model_of
    from lmseq.training.objectives import make_objective

    prepared = {each.train.seed: prepare(each) for each in {c.train.seed: c for c in known}.values()}
    config, first = known[0], prepared[known[0].train.seed]
    model, length = model_of(config, first), segment_length(config)

    def figures(config: SeriesConfig, params: Params) -> dict[str, Any]:
        mine = prepared[config.train.seed]
        judged = forecasts.judge(config, mine, model, params)
        return forecasts.summary(config, mine, params, judged)

    streams = [each.train for each in prepared.values()]
    batches = Batches(config.data.batch_size, length, sliding)
    return Work(model, streams, batches, make_objective(config), figures)


@cache
def read_texts(data: TextConfig) -> Any:
    """The texts of a config, read once for all groups."""
    from experiments.text.loading import load_texts, read_raw

    given, default = (data.valid_fraction, data.test_fraction), TextConfig()
    if given != (default.valid_fraction, default.test_fraction):
        if "all" not in read_raw(data.corpus).parts:
            raise ValueError(f"{data.corpus} has parts of its own: fractions do nothing")
    return load_texts(data)


def text_work(config: LanguageModelConfig) -> Work:
    """As `train_lm` has it: one text for all."""
    from lmseq.models.build import build_model

    data = config.data
    text = {knob.name: getattr(data, knob.name) for knob in dataclasses.fields(TextConfig)}
    texts = read_texts(TextConfig(**text))
    if not texts.ids["valid"].size:
        raise ValueError("expected a validation text: valid_fraction must be above 0")
    check_stream(texts.ids["train"].size, data.num_steps, data.batch_size, data.partition)
    model = build_model(config.model, len(texts.vocab))
    batches = Batches(data.batch_size, data.num_steps, data.partition)
    figures = partial(text_figures, texts, model)
    return Work(model, [texts.ids["train"]], batches, train_step.window_loss, figures)


def text_figures(texts: Any, model: Model, config: LanguageModelConfig, params: Params) -> dict[str, Any]:
    """Those of `report.conclude` that the parameters and the seed fix, without pictures and counts."""
    from experiments.text import report
    from experiments.text.evaluate import Subject, split_figures
    from lmseq.training.checkpoint import digest

    subject = Subject(config, Path(), texts, model)
    unigram = report.unigram_figures(subject)["loss"]
    horizon_key, _ = jax.random.split(split_key(config.train.seed).after)
    horizon = report.k_step_log_probs(subject, params, unigram, horizon_key)
    ahead = [k for k in report.HORIZONS if k <= horizon.shape[1]]
    return {
        "corpus": config.data.corpus,
        "level": config.data.level,
        "model": config.model.model,
        "num_parameters": count_parameters(params),
        "vocab_size": len(texts.vocab),
        "num_train_steps": config.train.num_train_steps,
        **split_figures(subject, params, "valid"),
        **split_figures(subject, params, "test"),
        **{f"loss_at_{k}": -float(horizon[:, k - 1].mean()) for k in ahead},
        "unigram_loss": unigram,
        "params_digest": digest(jax.tree.map(np.asarray, params)),
    }
