"""Write a text of a small grammar, whose verbs agree with subjects far away, and pairs that ask for it.

    python -m experiments.write_grammar --out=grammar
    python -m experiments.train_lm --corpus=grammar --level=word --workdir=runs/grammar
    python -m experiments.score_text --run=runs/grammar --pairs=grammar/pairs.tsv

The folder has train.txt, valid.txt and test.txt, a sentence a line, and pairs.tsv, with a right and a wrong
sentence a line, grouped by distance. A sentence is `noun verb .` of one class, or `one and-3 and-0 does .`,
whose verb has the number of its subject. The last line is a JSON object.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import numbers, say
from experiments.frame.flags import Given
from lmseq.config.knobs import at_least, knob
from lmseq.data.sources import Grammar, agreement_pairs, make_grammar
from lmseq.files import replacing_folder, to_json, write_text

# Of words and hidden states: the tables of the source have a row for each state, and stay below a gigabyte.
MOST_WORDS, MOST_DISTANCE, MOST_PAIRS = 200, 1000, 100_000


@dataclass(frozen=True)
class GrammarOptions:
    """The grammar, and how much is written of it."""

    out: str = knob("", "folder of the text and the pairs: created, and never replaced", is_path=True)
    num_words: int = knob(200_000, "of the training text, about; the others have a tenth of it each")
    distances: str = knob("2,3,5,10,20", "words from a subject to the verb that agrees with it")
    agreement_share: float = knob(0.5, "share of the sentences whose verb agrees at a distance")
    num_classes: int = knob(2, "classes of nouns, each with verbs of its own")
    num_synonyms: int = knob(5, "words of each class, and of each number")
    num_fillers: int = knob(5, "words that stand between subjects and verbs")
    num_pairs: int = knob(500, "pairs of each distance")
    seed: int = knob(0, "of the sentences and the pairs")


def sentences(grammar: Grammar, num_words: int, seed: int) -> list[str]:
    """Whole sentences of about as many words, drawn from the grammar."""
    from experiments.claims.known_sources import samples

    (stream,) = samples(grammar.source, [seed], num_words)
    ends = np.flatnonzero(stream == grammar.period) + 1
    if not ends.size:
        raise ValueError(f"expected num_words for a sentence at least, got {num_words}: ask for more")
    return [spell(grammar, part) for part in np.split(stream, ends)[:-1]]


def spell(grammar: Grammar, ids: np.ndarray) -> str:
    """A sentence as words with spaces between."""
    return " ".join(grammar.words[i] for i in ids)


def pair_lines(grammar: Grammar, distances: list[int], num_pairs: int, seed: int) -> Iterator[str]:
    """Lines of the file of pairs."""
    for distance in distances:
        pairs = agreement_pairs(np.random.default_rng([seed, distance]), grammar, distance, num_pairs)
        for right, wrong in zip(*pairs, strict=True):
            yield f"{spell(grammar, right)}\t{spell(grammar, wrong)}\tdistance {distance}"


def act(options: GrammarOptions, given: Given) -> None:
    """Write the folder, and say what is in it."""
    if not options.out:
        raise ValueError("expected --out=DIR, the folder that the text and the pairs are written to")
    distances = numbers(options.distances, "distances")
    at_least(1000, 100_000_000, num_words=options.num_words)
    at_least(1, MOST_PAIRS, num_pairs=options.num_pairs)
    for name in ("num_classes", "num_synonyms", "num_fillers"):
        at_least(1, MOST_WORDS, **{name: getattr(options, name)})
    for distance in distances:
        at_least(2, MOST_DISTANCE, distances=distance)
    at_least(0, seed=options.seed)
    sizes = options.num_classes, options.num_synonyms, options.num_fillers
    grammar = make_grammar(*sizes, distances, options.agreement_share)
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    parts = {"train": options.num_words, "valid": options.num_words // 10, "test": options.num_words // 10}
    summary = {"out": options.out, "symbols": len(grammar.words)}
    with replacing_folder(Path(options.out)) as folder:
        for number, (part, num_words) in enumerate(parts.items()):
            written = sentences(grammar, num_words, 3 * options.seed + number)
            write_text(folder / f"{part}.txt", "\n".join(written) + "\n")
            summary[f"{part}_sentences"] = len(written)
        lines = list(pair_lines(grammar, distances, options.num_pairs, options.seed))
        write_text(folder / "pairs.tsv", "\n".join(lines) + "\n")
    say(f"{options.out}: {summary['train_sentences']:,} sentences to train on, {len(lines):,} pairs")
    print(to_json(summary | {"num_pairs": len(lines)}), flush=True)


COMMAND = Command(__doc__, GrammarOptions, act)

if __name__ == "__main__":
    main(COMMAND)
