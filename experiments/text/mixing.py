"""The stages of a mixture: caches fitted, each model scored, weights fitted by EM, all of it written down."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.frame.console import say
from experiments.text import reopened
from experiments.text.evaluate import load_run
from experiments.text.loading import load_texts, text_of
from experiments.text.suggest import suggest
from lmseq import scoring
from lmseq.config.language_model import LanguageModelConfig
from lmseq.config.mixture import MixtureConfig, dynamic_rates, weight_shares
from lmseq.config.text import TextConfig
from lmseq.contract import Model
from lmseq.data.corpora import SPLITS
from lmseq.data.texts import Texts
from lmseq.files import read_json, to_json, write_text
from lmseq.models.dynamic import gradient_scale, with_rates
from lmseq.models.following import fit_share, follow
from lmseq.models.interface import has_hidden
from lmseq.models.mixture import CacheParams, fit_cache, fit_weights
from lmseq.runs import Run, is_neural, is_proper, save_scale, split_run
from lmseq.training.checkpoint import digest
from lmseq.types import Params


class PreparedMixture(NamedTuple):
    """The runs that are mixed, the text that they share, and what is noted of both."""

    config: MixtureConfig
    found: list[Run]
    text: TextConfig
    noted: dict[str, Any]


SCORED = ("valid", "test")
SCALE_TOKENS = 200_000  # of the training text, which sizes of gradients are measured on


class Row(NamedTuple):
    """A line of the table: a model's name, its weight in the mixture, and ln p of each split's tokens."""

    name: str
    weight: float | None
    log_probs: dict[str, np.ndarray]


def prepare(config: MixtureConfig) -> PreparedMixture:
    """Load the runs. Raises ValueError for runs that do not go together."""
    paths = run_paths(config)
    digests = check_texts(folders_of(paths))
    found = [load_run(str(path), config.checkpoint) for path in paths]
    check_models(paths, found)
    if any(dynamic_rates(config)) and not any(is_neural(run) for run in found):
        raise ValueError(
            f"dynamic_rate={config.dynamic_rate} does nothing here: it is read by runs of train_lm only"
        )
    text = text_of(found[0].config)
    corpus = text.corpus
    if os.path.exists(corpus) and not (os.path.isfile(corpus) or os.path.isdir(corpus)):
        raise ValueError(
            f"{paths[0]} was made of a text from a pipe ({corpus}), which is not there any more: "
            "make the models of a file"
        )
    noted = {"corpus": corpus, "runs": identify(paths, found), **digests}
    return PreparedMixture(config, found, text, noted)


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
                f"{run.vocab.level}, {len(run.vocab)}): give both the same --level and --min_count (a run "
                "begun by --init_from has the vocabulary of the one that it began with)"
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
    parts, fitted = _fit_parts(workdir, config, found, names, texts)
    log_probs = {split: [_score(part, texts.ids[split]) for part in parts] for split in SCORED}
    weights = fit_weights(np.array(log_probs["valid"], np.float64))
    share = _fit_share(config, weights, np.array(log_probs["valid"]))
    fitted = {
        "runs": as_seen_from(workdir, facts["runs"]),
        "weights": weights.tolist(),
        **fitted,
        **({} if share == 1.0 else {"weight_share": share}),
    }
    write_text(workdir / "mixture.json", to_json(fitted, indent=1) + "\n")
    adapted = [", adapted" if each else "" for each in fitted.get("dynamic", [None] * len(names))]
    rows = _plain_rows(config, found, names, adapted, texts)
    for i, name in enumerate(names):
        rows.append(Row(name + adapted[i], weights[i], {s: each[i] for s, each in log_probs.items()}))
    mixed = {s: _mixed(weights, share, np.array(each)) for s, each in log_probs.items()}
    rows.append(Row("mixture" + max(adapted), None, mixed))
    figures = [_figures(texts, row.log_probs) for row in rows]
    _show(rows, figures)
    losses = {
        f"{split}_loss_{row.name}": each[f"{split}_loss"]
        for row, each in zip(rows[:-1], figures, strict=False)
        for split in SCORED
    }
    summary = {"corpus": texts.corpus.name, **fitted, **losses, **figures[-1]}
    reopened.write_of(workdir, summary, texts)
    say(f"{workdir}: page.html  mixture.json  summary.json")
    suggest(workdir, texts.vocab, texts.first_words())
    return summary


def _is_taken(run: Run) -> bool:
    """Whether the vocabulary is that of another run, and not made of the text."""
    return isinstance(run.config, LanguageModelConfig) and bool(run.config.course.init_from)


def _fit_parts(
    workdir: Path, config: MixtureConfig, found: list[Run], names: list[str], texts: Texts
) -> tuple[list[tuple[Model, Params]], dict[str, Any]]:
    """The models as they are mixed, adapted and behind caches, and what is written of both."""
    parts, fitted = [(run.model, run.params) for run in found], {"caches": []}
    if any(dynamic_rates(config)):
        pairs = [_adapted(workdir, config, *each, texts) for each in zip(names, found, strict=True)]
        parts, fitted["dynamic"] = [part for part, _ in pairs], [each for _, each in pairs]
    if config.cache_size:
        pairs = [_cached(part, texts, config.cache_size) for part in parts]
        parts, fitted["caches"] = [part for part, _ in pairs], [cache for _, cache in pairs]
    return parts, fitted


def _adapted(
    workdir: Path, config: MixtureConfig, name: str, run: Run, texts: Texts
) -> tuple[tuple[Model, Params], dict[str, Any] | None]:
    """A run that follows the text at the rate that fits the validation text best, and what is written of it.

    None is written of a run that stays as it is.
    """
    plain = run.model, run.params
    if not is_neural(run):
        return plain, None
    segment, decay, scale = config.dynamic_segment, config.dynamic_decay, None
    if config.dynamic_scaled:
        scale = gradient_scale(*plain, texts.ids["train"][:SCALE_TOKENS], segment)
    rates = dynamic_rates(config)
    parts = {rate: with_rates(*plain, segment, rate, decay, scale) if rate else plain for rate in rates}
    rate = _best_rate(name, parts, texts) if len(rates) > 1 else rates[0]
    if not rate:
        return plain, None
    noted = {"segment": segment, "rate": rate, "decay": decay}
    if config.dynamic_scaled:
        noted["scale"] = save_scale(workdir, name, scale)
    return parts[rate], noted


def _best_rate(name: str, parts: dict[float, tuple[Model, Params]], texts: Texts) -> float:
    """The rate under which the validation text is likeliest; 0 where none leaves a loss that is a number."""
    best, least = 0.0, math.inf
    for rate, part in parts.items():
        loss = -_score(part, texts.ids["valid"]).mean()
        say(f"{name}: dynamic_rate {rate:g}, validation loss {loss:.4f}")
        if loss < least:
            best, least = rate, loss
    return best


def _fit_share(config: MixtureConfig, weights: np.ndarray, log_probs: np.ndarray) -> float:
    """The share of fitted weights: the one that is given, or the best on the validation text."""
    shares = weight_shares(config)
    if len(shares) == 1:
        return shares[0]
    share = fit_share(weights, log_probs, shares)
    say(f"weight_share {share:g}")
    return share


def _mixed(weights: np.ndarray, share: float, log_probs: np.ndarray) -> np.ndarray:
    """ln p of each token under the mixture, from those of the parts (M, T)."""
    if share != 1.0:
        return follow(weights, share, log_probs)
    with np.errstate(divide="ignore"):
        return np.logaddexp.reduce(np.log(weights)[:, None] + log_probs, axis=0)


def _plain_rows(
    config: MixtureConfig, found: list[Run], names: list[str], adapted: list[str], texts: Texts
) -> list[Row]:
    """The models as they were trained, of those that are not mixed so."""
    rows = []
    for name, run, changed in zip(names, found, adapted, strict=True):
        lacks = ", static" * bool(changed) + ", no cache" * bool(config.cache_size)
        if lacks:
            log_probs = {split: _score((run.model, run.params), texts.ids[split]) for split in SCORED}
            rows.append(Row(name + lacks, None, log_probs))
    return rows


def _show(rows: list[Row], figures: list[dict[str, float]]) -> None:
    """The table of all models."""
    say(f"{'':<24}{'weight':>8}{'valid nats':>12}{'test nats':>11}{'perplexity':>12}{'bits/char':>11}")
    for row, each in zip(rows, figures, strict=True):
        name, *rest = row.name.split(", ")
        what = "".join(f", {word}" for word in rest)
        weight = "" if row.weight is None else f"{row.weight:.3f}"
        say(
            f"{name[: 24 - len(what)] + what:<24}{weight:>8}{each['valid_loss']:>12.4f}"
            f"{each['test_loss']:>11.4f}{each['test_perplexity']:>12.3f}{each['test_bits_per_char']:>11.4f}"
        )


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
