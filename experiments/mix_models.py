"""Mix models of the same text: weights fitted on the validation text, everything scored on the test text.

    python -m experiments.mix_models --runs=runs/counts,runs/gru --workdir=runs/mixed
    python -m experiments.mix_models --runs=runs/counts,runs/gru --cache_size=2000 --workdir=runs/cached

Runs of train_lm and train_ngram go together that were made of the same text, split alike, at the same level.
What comes of it is a run too, to be scored with and sampled from. --cache_size puts a cache of the latest
tokens around each model: around a recurrent one compared by its states, around others by how often each came.
"""

from experiments.frame import app  # first: it notes the time

from pathlib import Path
from typing import Any

from absl import flags

from lmseq.config import knobs
from lmseq.config.knobs import MOST_UNITS, at_least
from lmseq.config.mixture import MixConfig
from lmseq.config.text import TextConfig

flags.DEFINE_string("workdir", None, "folder of the mixture: created, or, when finished, reprinted")
NAMES = app.define_all_flags(MixConfig)
SPLITS = ("train", "valid", "test")


def check_texts(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of the splits that all runs share; ValueError where two were made of different texts."""
    from lmseq.files import read_json

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


def check_models(paths: list[Path], runs: list[Any]) -> None:
    """ValueError for scores that are no probabilities, and for symbols that differ from run to run."""
    from lmseq.runs import is_proper

    first = runs[0].vocab
    for path, run in zip(paths, runs, strict=True):
        if not is_proper(run):
            raise ValueError(f"{path} is stupid back-off, whose scores are no probabilities: leave it out")
    for path, run in zip(paths, runs, strict=True):
        if run.vocab != first:
            raise ValueError(
                f"{paths[0]} and {path} have different vocabularies ({first.level}, {len(first)} symbols; "
                f"{run.vocab.level}, {len(run.vocab)}): give both the same --level and --min_count"
            )


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the mixture is written to")
    config = knobs.from_flat(app.values(NAMES), MixConfig)
    mixture = config.mixture
    at_least(0, MOST_UNITS, cache_size=mixture.cache_size)
    paths = [Path(path.strip()) for path in mixture.runs.split(",") if path.strip()]
    if len(paths) < 2 and not (paths and mixture.cache_size):
        raise ValueError("expected --runs=DIR,DIR, two or more, or one with --cache_size")
    digests = check_texts(paths)
    app.prepare_jax()
    from experiments.counts import mixing
    from experiments.text.evaluate import load_run

    runs = [load_run(str(path), mixture.checkpoint) for path in paths]
    check_models(paths, runs)
    text = {k: v for k, v in knobs.to_flat(runs[0].config).items() if k in TextConfig.__dataclass_fields__}
    facts = {"corpus": text["corpus"], "runs": mixing.identify(paths, runs), **digests}
    workdir = Path(app.FLAGS.workdir)
    with app.opened(workdir, config, facts, "corpus.json") as finished:
        if finished is not None:
            print(finished)
            return 0
        summary = mixing.mix(workdir, config, runs, TextConfig(**text), facts)
        app.finish(workdir, {**summary, "wall_seconds": app.seconds()})
    return 0


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", *NAMES])
