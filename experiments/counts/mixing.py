"""The stages of a mixture: caches fitted, each model scored, weights fitted by EM, all of it written down."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.frame import app
from experiments.text.loading import load_texts
from lmseq.data.texts import Texts
from lmseq import runs, scoring
from lmseq.config.mixture import MixConfig
from lmseq.config.text import TextConfig
from lmseq.contract import Model
from lmseq.models.mixture import CacheParams, fit_cache, fit_weights
from lmseq.runs import Run
from lmseq.training.checkpoint import digest
from lmseq.files import write_text
from lmseq.types import Params


def identify(paths: list[Path], found: list[Run]) -> list[dict[str, str]]:
    """Where each run is and what its parameters are, so that a mixture knows them again."""
    return [
        {"path": str(path.resolve()), "params_digest": digest(run.params)}
        for path, run in zip(paths, found, strict=True)
    ]


def mix(
    workdir: Path, config: MixConfig, found: list[Run], text: TextConfig, facts: dict[str, Any]
) -> dict[str, Any]:
    """Fit on the validation text, score the test text, print a table, write mixture.json; the summary."""
    texts = load_texts(text)
    if not texts.ids["valid"].size or not texts.ids["test"].size:
        raise ValueError(
            "expected a validation text to fit the weights on and a test text to score: train all models "
            "with --valid_fraction and --test_fraction above 0"
        )
    names = [Path(run["path"]).name for run in facts["runs"]]
    if len(set(names)) < len(names):
        names = [f"{name}_{number}" for number, name in enumerate(names, start=1)]
    parts, caches = [(run.model, run.params) for run in found], []
    if config.mixture.cache_size:
        plain = list(zip([f"{name}, no cache" for name in names], parts, strict=True))
        pairs = [_cached(part, texts, config.mixture.cache_size) for part in parts]
        parts, caches = [part for part, _ in pairs], [cache for _, cache in pairs]
    else:
        plain = []
    log_probs = {split: [_score(part, texts.ids[split]) for part in parts] for split in ("valid", "test")}
    weights = fit_weights(np.array(log_probs["valid"], np.float64))
    fitted = {"runs": facts["runs"], "weights": weights.tolist(), "caches": caches}
    write_text(workdir / "mixture.json", json.dumps(fitted, indent=1) + "\n")
    rows = [(name, {s: _score(part, texts.ids[s]) for s in log_probs}) for name, part in plain]
    rows += [(name, {s: log_probs[s][i] for s in log_probs}) for i, name in enumerate(names)]
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)[:, None]
    mixed = {s: np.logaddexp.reduce(log_weights + np.array(each), axis=0) for s, each in log_probs.items()}
    rows.append(("mixture", mixed))
    figures = [_figures(texts, row) for _, row in rows]
    app.say(f"{'':<24}{'weight':>8}{'valid nats':>12}{'test nats':>11}{'perplexity':>12}{'bits/char':>11}")
    shown = [None] * len(plain) + [*weights.tolist(), None]
    for (name, _), row, weight in zip(rows, figures, shown, strict=True):
        app.say(
            f"{name[:24]:<24}{'' if weight is None else f'{weight:.3f}':>8}{row['valid_loss']:>12.4f}"
            f"{row['test_loss']:>11.4f}{row['test_perplexity']:>12.3f}{row['test_bits_per_char']:>11.4f}"
        )
    app.say(f"{workdir}: mixture.json  summary.json")
    app.say(f"next:  python -m experiments.sample_text --run={workdir} --num_samples=4")
    losses = {
        f"{split}_loss_{name}": row[f"{split}_loss"]
        for (name, _), row in zip(rows[:-1], figures, strict=False)
        for split in ("valid", "test")
    }
    return {"corpus": texts.corpus.name, **fitted, **losses, **figures[-1]}


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
    found = fit_cache(*part, texts.ids["valid"], size, len(texts.vocab), neural=runs.is_recurrent(part[0]))
    app.say(f"cache: weight {found.weight:.3f}, sharpness {found.sharpness:g}")
    return found[:2], {"size": size, "weight": found.weight, "sharpness": found.sharpness}
