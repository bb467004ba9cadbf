"""Settings of the walls of counting."""

from dataclasses import dataclass, field

from experiments.frame.console import numbers
from lmseq.config import knobs
from lmseq.config.knobs import knob


@dataclass(frozen=True)
class WallsConfig:
    """The text, and its parts."""

    corpus: str = knob("python_docs", "text, as in train_lm", is_path=True)
    num_parts: int = knob(8, "parts of the text, over which intervals of zeros and storage are; at least 2")
    least_count: int = knob(2, "words that occur less often in training are one word, beside zeros")
    seed: int = knob(0, "first seed")


@dataclass(frozen=True)
class GrammarConfig:
    """Samples of the grammar, and the trainings on them."""

    synonym_tokens: int = knob(3000, "words of each sample in which most pairs of synonyms are missing")
    synonym_steps: int = knob(300, "optimiser steps of each perceptron on them")
    synonym_seeds: int = knob(10, "such samples and trainings; at least 2")
    range_tokens: int = knob(300_000, "words of each sample with agreement at a distance")
    range_steps: int = knob(3000, "optimiser steps of each net on them")
    range_seeds: int = knob(4, "such samples and trainings; at least 2")
    distances: str = knob("5,10,20,35,50", "words from subject to verb, 5 or more, ascending")
    tau: int = knob(8, "words that the perceptron sees")
    hidden_size: int = knob(64, "units of the recurrent net; the perceptron has twice as many")


@dataclass(frozen=True)
class CrossingConfig:
    """The sizes, and the training of the net on each."""

    char_sizes: str = knob("8192,32768,160000", "characters of training text, beside all there are")
    word_sizes: str = knob("4096,16384", "words of training text, beside all there are")
    num_passes: int = knob(10, "passes of the net through the training text; more through a small one")
    char_units: int = knob(128, "units of the recurrent net of characters")
    word_units: int = knob(64, "units of the recurrent net of words, and width of their embedding")
    crossing_seeds: int = knob(3, "trainings of each net on each size; at least 2")


@dataclass(frozen=True)
class CountingWallsRun:
    """All of the experiment."""

    walls: WallsConfig = field(default_factory=WallsConfig)
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    crossing: CrossingConfig = field(default_factory=CrossingConfig)


def check(whole: CountingWallsRun) -> CountingWallsRun:
    """ValueError for a setting out of range."""
    walls, grammar, crossing = whole.walls, whole.grammar, whole.crossing
    knobs.at_least(2, 1000, num_parts=walls.num_parts)
    knobs.at_least(1, least_count=walls.least_count, num_passes=crossing.num_passes)
    knobs.at_least(0, seed=walls.seed)
    knobs.at_least(2, synonym_seeds=grammar.synonym_seeds, range_seeds=grammar.range_seeds)
    knobs.at_least(2, synonym_steps=grammar.synonym_steps, range_steps=grammar.range_steps)
    knobs.at_least(2, crossing_seeds=crossing.crossing_seeds)
    knobs.at_least(1000, 10**7, synonym_tokens=grammar.synonym_tokens)
    knobs.at_least(10_000, 10**8, range_tokens=grammar.range_tokens)
    units = {"hidden_size": grammar.hidden_size, "tau": grammar.tau}
    units |= {"char_units": crossing.char_units, "word_units": crossing.word_units}
    knobs.at_least(1, knobs.MOST_UNITS // 2, **units)
    distances = numbers(grammar.distances, "distances")
    if sorted(set(distances)) != distances or distances[0] < 5:
        raise ValueError(f"expected distances of at least 5 in ascending order, each once, got {distances}")
    for name in ("char_sizes", "word_sizes"):
        sizes = numbers(getattr(crossing, name), name)
        if sorted(set(sizes)) != sizes or sizes[0] < 2048:
            raise ValueError(f"expected {name} of at least 2048 in ascending order, each once, got {sizes}")
    return whole
