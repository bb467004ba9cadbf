"""The stages of an average: runs loaded and compared, their mean scored beside them, and kept as a run."""

from pathlib import Path
from typing import Any, NamedTuple

from experiments.frame.console import say
from experiments.text.evaluate import PreparedText, load_run, split_figures
from experiments.text.loading import load_texts
from experiments.text.suggest import suggest
from lmseq.config import knobs
from lmseq.config.mixture import AverageConfig
from lmseq.data.corpora import SPLITS
from lmseq.files import read_json, write_text
from lmseq.models.interface import count_parameters
from lmseq.runs import AVERAGE, Run, check_alike, mean_params, split_run
from lmseq.training.checkpoint import digest, save_params
from lmseq.types import Params


class PreparedAverage(NamedTuple):
    """The names that runs were given, the runs, and what is noted of them and of the first one's text."""

    names: list[str]
    found: list[Run]
    noted: dict[str, Any]


def prepare(config: AverageConfig) -> PreparedAverage:
    """Load the runs. Raises ValueError for those that do not go together."""
    names = [name.strip() for name in config.runs.split(",") if name.strip()]
    found = [load_run(name, config.checkpoint) for name in names]
    check_alike(names, found)
    folders = [split_run(name)[0] for name in names]
    runs = [
        {"path": str(folder.resolve()), "step": run.step, "params_digest": digest(run.params)}
        for folder, run in zip(folders, found, strict=True)
    ]
    return PreparedAverage(names, found, _text_of(folders[0]) | {"runs": runs})


def _text_of(folder: Path) -> dict[str, Any]:
    """What a run has noted of its text alone."""
    facts = read_json(folder / "corpus.json")
    if not isinstance(facts, dict) or not all(isinstance(facts.get(split), dict) for split in SPLITS):
        raise ValueError(f"{folder / 'corpus.json'} is damaged: restore it, or leave the run out")
    return {name: facts[name] for name in ("corpus", "symbols", *SPLITS) if name in facts}


def average(workdir: Path, prepared: PreparedAverage) -> dict[str, Any]:
    """Average the parameters, keep them as a run, score everything on the first run's text; the summary."""
    names, found, noted = prepared
    config, vocab, model = found[0][:3]
    texts = load_texts(config.data, vocab=vocab if config.course.init_from else None)
    params = mean_params([run.params for run in found])
    write_text(workdir / "vocab.json", vocab.to_json())
    write_text(workdir / AVERAGE, knobs.to_json(config, "train_lm"))
    save_params(workdir, params)
    text = PreparedText(config, texts, model)
    say(f"{f'nats, on {texts.corpus.name}'[:32]:<32}{'valid':>10}{'test':>10}")
    losses = []
    for name, run in zip(names, found, strict=True):
        figures = _figures(text, name, run.params)
        losses.append({name: figures[name] for name in ("valid_loss", "test_loss")})
    figures = _figures(text, "mean", params)
    suggest(workdir, vocab, texts.first_words())
    return {
        "corpus": texts.corpus.name,
        "runs": [run | each for run, each in zip(noted["runs"], losses, strict=True)],
        "num_parameters": count_parameters(params),
        **figures,
        "params_digest": digest(params),
    }


def _figures(text: PreparedText, name: str, params: Params) -> dict[str, float | None]:
    """Figures of the validation and the test text, and a line of them."""
    figures = split_figures(text, params, "valid") | split_figures(text, params, "test")
    losses = [figures["valid_loss"], figures["test_loss"]]
    say(f"{name[-30:]:<32}" + "".join(f"{'-' if loss is None else f'{loss:.4f}':>10}" for loss in losses))
    return figures
