"""The text of a count model's run, and how much there is."""

from collections.abc import Set

import numpy as np

from experiments.frame.console import say
from experiments.text.loading import check_fractions, folders, load_texts, say_unknown
from lmseq.config.text import TextConfig
from lmseq.data.corpora import SPLITS
from lmseq.ngram import corpus
from lmseq.ngram.corpus import Counted, from_texts
from lmseq.ngram.counts import BOS_ID


def load_counted(text: TextConfig, given: Set[str] = frozenset()) -> Counted:
    """Read, split and number what the config names, and say how much it is."""
    if text.level != "word":
        return from_texts(load_texts(text, given))  # which says how much it is
    counted = corpus.load_counted(check_fractions(text, given), **folders())
    sizes = {split: int(np.count_nonzero(counted.streams[split] != BOS_ID)) for split in SPLITS[1:]}
    say_unknown(counted.name, {split: (counted.num_unknown[split], n) for split, n in sizes.items()})
    sizes = " / ".join(f"{stream.size:,}" for stream in counted.streams.values())
    say(f"{counted.name}: {sizes} tokens with marks (train / valid / test), {len(counted.vocab)} symbols")
    return counted
