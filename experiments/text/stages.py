"""The stages of a language model's run: text and model, training, and what is made of them."""

from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments.frame import show
from experiments.text import beginning, evaluate
from experiments.text.evaluate import CountsBeside, PreparedText
from experiments.text.loading import load_texts
from lmseq.config.kinds import COMPILED_CELLS
from lmseq.config.language_model import LanguageModelConfig, of_epochs
from lmseq.config.mixers import layer_names
from lmseq.data.partition import check_stream
from lmseq.data.texts import Texts
from lmseq.files import write_text
from lmseq.models.build import build_model
from lmseq.recurrence.unrolled import check_backend
from lmseq.training.job import Batches, Job
from lmseq.training.memory import check_carries, check_memory
from lmseq.training.processes import is_first
from lmseq.training.regularised import objective_of
from lmseq.training.sharding import check_batch, make_mesh


def load(config: LanguageModelConfig, given: Set[str], workdir: Path | None = None) -> PreparedText:
    """The text and the model of a config; `given` are the names of the flags that the user gave.

    workdir: the run's folder, which may hold it already. The config is that of `PreparedText` then: with the
    steps of its epochs.
    """
    names = layer_names(config.model, config.model.model, config.model.num_layers)
    has_cells = any(name in COMPILED_CELLS for name in names)  # attention's own loops are float32
    check_backend(config.model.backend, config.model.precision if has_cells else "float32")
    check_batch(make_mesh(), config.data.batch_size, config.train.accumulate_steps)
    begins = beginning.beginning_of(config, workdir)
    texts = load_texts(config.data, given, None if begins is None else begins.vocab)
    if config.course.num_epochs:
        num_tokens = texts.ids["train"].size
        config = of_epochs(config, batches_of(config).plan_of(num_tokens, config.train.seed, 0).num_batches)
    return prepare(config, texts)._replace(beginning=begins)


def facts(prepared: PreparedText) -> dict[str, Any]:
    """What a model is trained on, and begins with."""
    begins = {"init": prepared.beginning.facts} if prepared.beginning else {}
    return prepared.texts.facts() | begins


def prepare(config: LanguageModelConfig, texts: Texts) -> PreparedText:
    """The texts with the model that the config names. Raises ValueError where they do not fit each other."""
    if not texts.ids["valid"].size:
        raise ValueError("expected a validation text: valid_fraction must be above 0")
    data = config.data
    check_stream(texts.ids["train"].size, data.num_steps, data.batch_size, data.partition)
    model = build_model(config.model, len(texts.vocab))
    check_memory(model, shard=config.train.shard)
    report = config.report  # which has all samples of one origin at once, and each origin's carry
    rows = {"horizon_samples": report.horizon_samples, "horizon_origins": report.horizon_origins + 1}
    check_carries(model, {"batch_size": data.batch_size // jax.device_count(), **rows})
    return PreparedText(config, texts, model)


def run(workdir: Path, prepared: PreparedText, profile: range = range(0)) -> dict[str, Any]:
    """Train and watch, evaluate, draw; the summary. Raises StoppedError when a signal stops the training.

    profile: steps to trace.
    """
    config, texts, model, begins = prepared
    if is_first():
        write_text(workdir / "vocab.json", texts.vocab.to_json())
    if begins is not None:
        beginning.write(workdir, begins, model, config.train, config.data.batch_size)
    job = Job(
        model,
        texts.ids["train"],
        config.train,
        batches_of(config),
        objective_of(config.loss),
        workdir=workdir,
        evaluate=partial(evaluate.evaluate, prepared),
    )
    with ThreadPoolExecutor(1) as beside:  # which is waited for, also where the training is stopped
        counted = beside.submit(_count, prepared) if is_first() and _is_soon_counted(prepared) else None
        trained = show.run(job, evaluate.describe(config.model), config.data.level, profile)
    if not is_first():
        return {}
    from experiments.text import report

    return report.conclude(prepared, workdir, trained, None if counted is None else counted.result())


FEW_TOKENS = 2_000_000  # of which counts are made in seconds


def _is_soon_counted(prepared: PreparedText) -> bool:
    most, size = prepared.config.report.count_tokens, prepared.texts.ids["train"].size
    return min(most or size, size) <= FEW_TOKENS


def _count(prepared: PreparedText) -> CountsBeside:
    """The count model that stands beside the trained one, made while the device trains."""
    from experiments.text import report  # draws: slow to import, and not needed before

    return report.fit_best(prepared)


def batches_of(config: LanguageModelConfig) -> Batches:
    """The windows of a batch."""
    data = config.data
    return Batches(data.batch_size, data.num_steps, data.partition, data.random_windows)
