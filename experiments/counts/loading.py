"""The text of a count model's run, and how much there is."""

from collections.abc import Set

from experiments.frame.console import say
from experiments.text.loading import check_fractions, folders, load_texts
from lmseq.config.text import TextConfig
from lmseq.ngram import corpus
from lmseq.ngram.corpus import Counted, from_texts


def load_counted(text: TextConfig, given: Set[str] = frozenset()) -> Counted:
    """Read, split and number what the config names, and say how much it is."""
    if text.level == "word":
        counted = corpus.load_counted(check_fractions(text, given), **folders())
    else:
        counted = from_texts(load_texts(text, given))
    sizes = " / ".join(f"{stream.size:,}" for stream in counted.streams.values())
    say(f"{counted.name}: {sizes} tokens with marks (train / valid / test), {len(counted.vocab)} symbols")
    return counted
