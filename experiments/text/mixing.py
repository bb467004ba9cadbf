"""The stages of a mixture: caches fitted, each model scored, weights fitted by EM, all of it written down."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.frame.console import say
from experiments.text.evaluate import load_run
from experiments.text.loading import load_texts
from experiments.text.suggest import suggest
from lmseq import scoring
from lmseq.config import knobs
from lmseq.config.language_model import LanguageModelConfig
from lmseq.config.mixture import MixtureConfig
from lmseq.config.text import TextConfig
from lmseq.contract import Model
from lmseq.data.corpora import SPLITS
from lmseq.data.texts import Texts
from lmseq.files import read_json, to_json, write_text
from lmseq.models.interface import has_hidden
from lmseq.models.mixture import CacheParams, fit_cache, fit_weights
from lmseq.runs import Run, is_proper, split_run
from lmseq.training.checkpoint import digest
from lmseq.types import Params


class PreparedMixture(NamedTuple):
    """The runs that are mixed, the text that they share, and what is noted of both."""

    config: MixtureConfig
    found: list[Run]
    text: TextConfig
    noted: dict[str, Any]


def prepare(config: MixtureConfig) -> PreparedMixture:
    """Load the runs. Raises ValueError for runs that do not go together."""
    paths = run_paths(config)
    digests = check_texts(folders_of(paths))
    found = [load_run(str(path), config.checkpoint) for path in paths]
    check_models(paths, found)
    text = {k: v for k, v in knobs.to_flat(found[0].config).items() if k in TextConfig.__dataclass_fields__}
    corpus = text["corpus"]
    if os.path.exists(corpus) and not (os.path.isfile(corpus) or os.path.isdir(corpus)):
        raise ValueError(
            f"{paths[0]} was made of a text from a pipe ({corpus}), which is not there any more: "
            "make the models of a file"
        )
    noted = {"corpus": corpus, "runs": identify(paths, found), **digests}
    return PreparedMixture(config, found, TextConfig(**text), noted)


def run_paths(config: MixtureConfig) -> list[Path]:
    """The folders of the runs."""
    return [Path(path.strip()) for path in config.runs.split(",") if path.strip()]


def folders_of(paths: list[Path]) -> list[Path]:
    """The same without the checkpoints that they name."""
    return [split_run(path)[0] for path in paths]


def check_texts(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of the splits that all runs share; ValueError where two were made of different texts."""
    found = []
    for path in paths:
        if not (path / "corpus.json").is_file() or not (path / "config.json").is_file():
            raise ValueError(f"expected a run of train_lm or train_ngram in {path}, but there is none")
        facts = read_json(path / "corpus.json")
        if not isinstance(facts, dict) or not all(isinstance(facts.get(split), dict) for split in SPLITS):
            raise ValueError(f"expected a run of train_lm or train_ngram in {path}, not a mixture or damaged")
        found.append({split: facts[split]["sha256"] for split in SPLITS})
    for path, other in zip(paths, found, strict=True):
        differing = [split for split in SPLITS if other[split] != found[0][split]]
        if differing:
            raise ValueError(
                f"{paths[0]} and {path} were made of different texts ({', '.join(differing)}): give both the "
                "same --corpus, --normalize, --valid_fraction and --test_fraction"
            )
    return found[0]


def check_models(paths: list[Path], found: list[Run]) -> None:
    """ValueError for scores that are no probabilities, and for symbols that differ from run to run."""
    first = found[0].vocab
    for path, run in zip(paths, found, strict=True):
        if not is_proper(run):
            raise ValueError(f"{path} is stupid back-off, whose scores are no probabilities: leave it out")
    for path, run in zip(paths, found, strict=True):
        if run.vocab != first:
            raise ValueError(
                f"{paths[0]} and {path} have different vocabularies ({first.level}, {len(first)} symbols; "
                f"{run.vocab.level}, {len(run.vocab)}): give both the same --level and --min_count"
            )


def identify(paths: list[Path], found: list[Run]) -> list[dict[str, str]]:
    """Where each run is and what its parameters are, so that a mixture knows them again."""
    return [
        {"path": str(path.resolve()), "params_digest": digest(run.params)}
        for path, run in zip(paths, found, strict=True)
    ]


def as_seen_from(workdir: Path, places: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same with paths relative to a folder."""
    return [place | {"path": os.path.relpath(place["path"], workdir.resolve())} for place in places]


def mix(workdir: Path, prepared: PreparedMixture) -> dict[str, Any]:
    """Fit on the validation text, score the test text, print a table, write mixture.json; the summary."""
    config, found, text, facts = prepared
    taken = next((run.vocab for run in found if _is_taken(run)), None)
    texts = load_texts(text, vocab=taken)
    if not texts.ids["valid"].size or not texts.ids["test"].size:
        raise ValueError(
            "expected a validation text to fit the weights on and a test text to score: train all models "
            "with --valid_fraction and --test_fraction above 0"
        )
    names = [Path(run["path"]).name for run in facts["runs"]]
    if len(set(names)) < len(names):
        names = [f"{name}_{number}" for number, name in enumerate(names, start=1)]
    parts, caches = [(run.model, run.params) for run in found], []
    if config.cache_size:
        plain = list(zip([f"{name}, no cache" for name in names], parts, strict=True))
        pairs = [_cached(part, texts, config.cache_size) for part in parts]
        parts, caches = [part for part, _ in pairs], [cache for _, cache in pairs]
    else:
        plain = []
    log_probs = {split: [_score(part, texts.ids[split]) for part in parts] for split in ("valid", "test")}
    weights = fit_weights(np.array(log_probs["valid"], np.float64))
    fitted = {"runs": as_seen_from(workdir, facts["runs"]), "weights": weights.tolist(), "caches": caches}
    write_text(workdir / "mixture.json", to_json(fitted, indent=1) + "\n")
    rows = [(name, {s: _score(part, texts.ids[s]) for s in log_probs}) for name, part in plain]
    rows += [(name, {s: log_probs[s][i] for s in log_probs}) for i, name in enumerate(names)]
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)[:, None]
    mixed = {s: np.logaddexp.reduce(log_weights + np.array(each), axis=0) for s, each in log_probs.items()}
    rows.append(("mixture", mixed))
    figures = [_figures(texts, row) for _, row in rows]
    say(f"{'':<24}{'weight':>8}{'valid nats':>12}{'test nats':>11}{'perplexity':>12}{'bits/char':>11}")
    shown = [None] * len(plain) + [*weights.tolist(), None]
    for (name, _), row, weight in zip(rows, figures, shown, strict=True):
        say(
            f"{name[:24]:<24}{'' if weight is None else f'{weight:.3f}':>8}{row['valid_loss']:>12.4f}"
            f"{row['test_loss']:>11.4f}{row['test_perplexity']:>12.3f}{row['test_bits_per_char']:>11.4f}"
        )
    say(f"{workdir}: mixture.json  summary.json")
    suggest(workdir, texts.vocab, texts.first_words())
    losses = {
        f"{split}_loss_{name}": row[f"{split}_loss"]
        for (name, _), row in zip(rows[:-1], figures, strict=False)
        for split in ("valid", "test")
    }
    return {"corpus": texts.corpus.name, **fitted, **losses, **figures[-1]}


def _is_taken(run: Run) -> bool:
    """Whether the vocabulary is that of another run, and not made of the text."""
    return isinstance(run.config, LanguageModelConfig) and bool(run.config.course.init_from)


def _score(part: tuple[Model, Params], ids: np.ndarray) -> np.ndarray:
    return scoring.score_stream(*part, ids).astype(np.float64)


def _figures(texts: Texts, log_probs: dict[str, np.ndarray]) -> dict[str, float]:
    return {
        f"{split}_{name}": value
        for split, each in log_probs.items()
        for name, value in scoring.loss_figures(-each.sum(), each.size, texts.num_chars(split)).items()
    }


def _cached(
    part: tuple[Model, Params], texts: Texts, size: int
) -> tuple[tuple[Model, CacheParams], dict[str, float]]:
    """The model behind a cache that fits the validation text best, and what is written of the cache."""
    found = fit_cache(*part, texts.ids["valid"], size, len(texts.vocab), neural=has_hidden(part[0]))
    say(f"cache: weight {found.weight:.3f}, sharpness {found.sharpness:g}")
    return found[:2], {"size": size, "weight": found.weight, "sharpness": found.sharpness}
