"""Models as they lie on disk: a neural run, the run of a count model, an ARPA file of any tool."""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int

from lmseq.config.counts import NgramConfig
from lmseq.config.knobs import from_json, script_of
from lmseq.config.language_model import LanguageModelConfig, check, model_differences
from lmseq.config.mixture import MixtureConfig
from lmseq.contract import Model
from lmseq.data.marks import KEPT, UNK
from lmseq.data.tokens import EOS, Vocab, normalize_text
from lmseq.files import named, read_json, read_text, replacing, split_run
from lmseq.models.build import build_model
from lmseq.models.dynamic import with_rates
from lmseq.models.following import with_share
from lmseq.models.interface import has_hidden
from lmseq.models.mixture import Mixture, MixtureParams, with_cache
from lmseq.models.ngram import put_tables
from lmseq.ngram.arpa import Begin, Progress, read_arpa
from lmseq.ngram.backoff import BackoffTables, score_words
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, UNK_ID
from lmseq.ngram.storage import load_tables
from lmseq.ngram.words import look_up, spell_words
from lmseq.recurrence.unrolled import Backend
from lmseq.training import checkpoint
from lmseq.types import Params

TABLES, MIXTURE, AVERAGE = "tables.npz", "mixture.json", "average.json"
RATES = "segment", "rate", "decay"  # of dynamic evaluation, as a mixture keeps them


class Run(NamedTuple):
    """A model and all that is needed to use it; `step` is that of parameters trained in steps."""

    config: LanguageModelConfig | NgramConfig | MixtureConfig | None
    vocab: Vocab
    model: Model
    params: Params
    step: int | None = None
    tables: BackoffTables | None = None


def load_run(
    path: str | Path,
    which: str = "latest",
    *,
    memory: int = 0,
    begin: Begin = lambda total: None,
    progress: Progress = lambda lines: None,
    backend: Backend = "auto",
) -> Run:
    """The model of a run's folder, or of an ARPA file or pipe, whose text is words, a sentence a line.

    which: the `latest` checkpoint of a neural run, the `best` by validation loss, or that of a step; what the
    path itself names, as in `runs/demo:best` and `runs/demo:1000`, stands above it. memory, begin and
    progress are `read_arpa`'s. backend: whose loops recurrent layers run in; `scan` where the model is to run
    elsewhere (`lmseq.portable`). Raises ValueError when there is no model, or what there is is damaged.
    """
    path, named = split_run(path)
    if not os.path.exists(path):  # of pathlib's own, some names raise
        raise ValueError(f"expected a run or an ARPA file in {path}, but there is nothing: check the path")
    if named and ((path / MIXTURE).is_file() or (path / TABLES).is_file() or not os.path.isdir(path)):
        raise ValueError(f"{path} was not trained in steps, and has no checkpoints: leave :{named} out")
    if not os.path.isdir(path):  # a pipe too
        return _arpa_run(path, memory, begin, progress)
    if (path / MIXTURE).is_file():
        return _mixture_run(path, backend)
    return _tables_run(path) if (path / TABLES).is_file() else _neural_run(path, named or which, backend)


def _arpa_run(path: Path, memory: int, begin: Begin, progress: Progress) -> Run:
    """A model of any tool: its words, an unknown word and the end of a line are the symbols."""
    arpa = read_arpa(path, begin=begin, progress=progress, memory=memory)
    if EOS in arpa.words:
        raise ValueError(f"{path} has the word {EOS}, which is kept for {KEPT[EOS]}: replace it")
    vocab = Vocab("word", tokens=(UNK, *arpa.words, EOS))
    words = range(FIRST_WORD_ID, FIRST_WORD_ID + len(arpa.words))
    return _count_run(arpa.tables, np.array([UNK_ID, *words, EOS_ID]), vocab)


def _neural_run(path: Path, which: str, backend: Backend) -> Run:
    """A model rebuilt from its own config, with parameters from a checkpoint; nothing else is read.

    An average of runs has the config of the first.
    """
    config_file = AVERAGE if (path / AVERAGE).is_file() else "config.json"
    for name in (config_file, "vocab.json"):
        if not (path / name).is_file():
            raise ValueError(
                f"expected a language model in {path}, but it has no {name}{_held(path)}: train one, or name "
                "another"
            )
    with named(path):
        config = check(from_json(read_text(path / config_file), LanguageModelConfig, "train_lm"))
        vocab = Vocab.from_json(read_text(path / "vocab.json"))
    # The loops that it was trained by may not be there, and make no difference.
    model = build_model(replace(config.model, backend=backend), len(vocab))
    params, step = checkpoint.load_params(path, model, which)
    return Run(config, vocab, model, params, step)


def check_alike(names: Sequence[str], runs: Sequence[Run]) -> None:
    """ValueError, naming the first difference, unless all are trained models of one shape and vocabulary."""
    for name, run in zip(names, runs, strict=True):
        if not isinstance(run.config, LanguageModelConfig):
            raise ValueError(f"expected runs of train_lm, {name} is none: leave it out")
    first, expected = names[0], runs[0]
    for name, run in zip(names, runs, strict=True):
        between = f"{first} and {name}"
        for what in ("level", "normalize", "tokens", "bpe_json"):
            there, here = getattr(expected.vocab, what), getattr(run.vocab, what)
            if there != here:
                sizes = f"{len(expected.vocab)} symbols, {len(run.vocab)}"
                told = f"{there}, {here}" if what in ("level", "normalize") else sizes
                raise ValueError(f"{between} have different vocabularies ({what}: {told}): leave one out")
        differing = model_differences(expected.config.model, run.config.model)
        if differing:
            raise ValueError(f"{between} are different models ({differing[0]}): leave one out")


def mean_params(parts: Sequence[Params]) -> Params:
    """The mean of parameters of one shape, leaf by leaf: summed in float64, in the type of the first.

    Runs that began alike lie in one basin of the loss, where the mean can be better than each of them
    (Izmailov et al. 2018; Wortsman et al. 2022); the mean of runs from different seeds is no model of use.
    """

    def mean(*leaves: ArrayLike) -> np.ndarray:
        total = sum(np.asarray(leaf, np.float64) for leaf in leaves)
        return np.asarray(total / len(leaves), np.asarray(leaves[0]).dtype)

    return jax.tree.map(mean, *parts)


def _held(path: Path) -> str:
    """What a folder holds instead of a language model, in words."""
    script = script_of(path)
    return "" if script in ("", "train_lm") else f" (it holds a run of {script})"


def _tables_run(path: Path) -> Run:
    """A count model of ours."""
    for name in ("config.json", "vocab.json"):
        if not (path / name).is_file():
            raise ValueError(
                f"expected {name} beside {path / TABLES}: restore it, or estimate the model again"
            )
    with named(path):
        config = from_json(read_text(path / "config.json"), NgramConfig, "train_ngram")
        vocab = Vocab.from_json(read_text(path / "vocab.json"))
    tables, more = load_tables(path / TABLES)
    word_of = more.get("word_of")
    if (
        word_of is None
        or word_of.shape != (len(vocab),)
        or not 0 <= word_of.min() <= word_of.max() < tables.vocab_size
    ):
        raise ValueError(
            f"{path / TABLES} does not belong to the vocabulary beside it: estimate the model again"
        )
    return _count_run(tables, word_of, vocab, config)


def _count_run(
    tables: BackoffTables, word_of: Int[np.ndarray, "vocab"], vocab: Vocab, config: NgramConfig | None = None
) -> Run:
    model, params = put_tables(tables, word_of, has_unknown=bool(vocab.unknown_ids))
    return Run(config, vocab, model, params, tables=tables)


class Lines(NamedTuple):
    """ln p of each word and line end of a text, float64 (T,), and which are unknown words, bool (T,)."""

    log_probs: Float[np.ndarray, "time"]
    unknown: Bool[np.ndarray, "time"]


def score_lines(run: Run, *texts: str) -> Lines:
    """Score words under a count model as the reference tool does: an unknown word has the tables' `<unk>`.

    Each text begins a line, and what is found of them stands one behind the other.
    The contract has one symbol both for unknown words and for a text's own word `<unk>`; here they differ.
    """
    words = spell_words(run.vocab.tokens, np.asarray(run.params.word_of), run.tables.vocab_size)
    lines = [normalize_text(text, run.vocab.normalize) for text in texts]
    whole = "".join(line + "\n" * (not line.endswith("\n")) for line in lines)
    stream = look_up([whole.encode()], [word.encode() for word in words])
    predicted = stream != BOS_ID
    return Lines(score_words(run.tables, stream)[predicted], stream[predicted] == UNK_ID)


def is_neural(run: Run) -> bool:
    """Whether a run is of a net, whose parameters gradients can change."""
    return isinstance(run.config, LanguageModelConfig)


def is_proper(run: Run) -> bool:
    """Whether a model gives probabilities, as all but stupid back-off do."""
    return run.tables is None or run.tables.is_proper()


def _mixture_run(path: Path, backend: Backend) -> Run:
    """The models that a mixture names, which must be what they were when it was fitted.

    They are named as seen from the mixture's folder, so that all can be moved together.
    """
    with named(path):
        config = from_json(read_text(path / "config.json"), MixtureConfig, "mix_models")
    try:
        fitted = read_json(path / MIXTURE)
        places = [(place["path"], place["params_digest"]) for place in fitted["runs"]]
        caches = [(cache["size"], cache["weight"], cache["sharpness"]) for cache in fitted["caches"]]
        dynamic = fitted.get("dynamic", [])
        rates = [each and tuple(each[name] for name in RATES) for each in dynamic]
        share = fitted.get("weight_share", 1.0)
        log_weights = jnp.log(jnp.array(fitted["weights"], jnp.float32))
        number = len(places)
        if log_weights.shape != (number,) or {len(caches), len(rates)} - {0, number} or not 0 <= share <= 1:
            raise ValueError(f"{path / MIXTURE} is damaged: mix again")
    except (KeyError, TypeError):
        raise ValueError(f"{path / MIXTURE} is damaged: mix again") from None
    found = []
    for place, params_digest in places:
        if (split_run(path / place)[0] / MIXTURE).is_file():
            raise ValueError(f"{path / MIXTURE} is damaged (it names a mixture): mix again")
        if not split_run(path / place)[0].exists():
            raise ValueError(
                f"{path} is a mixture with {path / place}, which is not there: "
                "move them together, or mix again"
            )
        run = load_run(path / place, config.checkpoint, backend=backend)
        if checkpoint.digest(run.params) != params_digest:
            raise ValueError(f"{path / place} is not what {path} was mixed from: mix again")
        found.append(run)
    vocab, parts = found[0].vocab, [(run.model, run.params) for run in found]
    for i, found_rates in enumerate(rates):
        if found_rates:
            scale = load_scale(path, dynamic[i]["scale"], parts[i][1]) if "scale" in dynamic[i] else None
            parts[i] = with_rates(*parts[i], *found_rates, scale)
    for i, (size, weight, sharpness) in enumerate(caches):
        model, params = with_cache(*parts[i], size, len(vocab), neural=has_hidden(parts[i][0]))
        parts[i] = model, params._replace(weight=jnp.array(weight), sharpness=jnp.array(sharpness))
    models, params = zip(*parts, strict=True)
    mixture = Mixture(models), MixtureParams(log_weights, params)
    return Run(config, vocab, *(mixture if share == 1.0 else with_share(*mixture, share)))


def save_scale(workdir: Path, name: str, scale: Params) -> dict[str, str]:
    """Write what gradients of a run are divided by into a mixture's folder; the file's name and a digest."""
    file = f"scale_{name}.npz"
    with replacing(workdir / file, "wb") as written:
        np.savez(written, *jax.tree.leaves(scale))
    return {"file": file, "digest": checkpoint.digest(scale)}


def load_scale(workdir: Path, saved: dict[str, str], params: Params) -> Params:
    """What `save_scale` wrote, a tree like the run's parameters. Raises ValueError where it is not there."""
    path = workdir / saved["file"]
    try:
        with np.load(path) as arrays:
            leaves = [jnp.asarray(arrays[f"arr_{i}"]) for i in range(len(arrays))]
        scale = jax.tree.unflatten(jax.tree.structure(params), leaves)
        whole = checkpoint.digest(scale) == saved["digest"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        whole = False
    if not whole:
        raise ValueError(f"{path} is not there, or not what {workdir} was mixed with: mix again")
    return scale
