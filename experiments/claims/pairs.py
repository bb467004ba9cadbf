"""Keys with values to be recalled: multi-query associative recall (MQAR, Arora et al. 2024).

    input    _ ... _ | pair ... pair | _ ... _ | question ... question
    answer                                       value    ... value

A pair is one token, which names a key and its value, so that a single layer can write it. D keys, each
different, have values drawn at random; blanks fill what is missing to the largest D. After a gap as many
questions as there may be pairs ask for the values: each key once in random order, then again from the first.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer


class Vocabulary(NamedTuple):
    """V keys and V values in one vocabulary: pairs k V + v, then questions V^2 + k, then a blank.

    An answer v has the id v: answers are no inputs, and so cannot be taken for pairs.
    """

    num_keys: int

    @property
    def blank(self) -> int:
        """The token that says nothing."""
        return self.num_keys**2 + self.num_keys

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self.blank + 1


def information(num_pairs: int, num_keys: int) -> float:
    """Bits that the values of D keys are, D log2 V: what a carry holds that answers all questions."""
    return num_pairs * math.log2(num_keys)


def draw_blocks(
    rng: np.random.Generator,
    num_pairs: Integer[np.ndarray, "rows"],
    most_pairs: int,
    gap: int,
    words: Vocabulary,
) -> Integer[np.ndarray, "rows time"]:
    """A block for each number of pairs: 2 M + gap inputs, then M answers, int32, M = most_pairs."""
    num_rows, number, places = len(num_pairs), num_pairs[:, None], np.arange(most_pairs)[None]
    keys = np.argsort(rng.random((num_rows, words.num_keys)), axis=1)[:, :most_pairs]
    values = rng.integers(words.num_keys, size=keys.shape)
    pairs = np.where(places < most_pairs - number, words.blank, keys * words.num_keys + values)
    # The places of the pairs in random order, the last D of the M; behind them those of blanks, never asked.
    order = np.argsort(np.where(places < most_pairs - number, 1.0, rng.random(keys.shape)), axis=1)
    asked = np.take_along_axis(order, places % number, axis=1)
    questions = words.num_keys**2 + np.take_along_axis(keys, asked, axis=1)
    answers = np.take_along_axis(values, asked, axis=1)
    blanks = np.full((num_rows, gap), words.blank)
    return np.concatenate([pairs, blanks, questions, answers], axis=1, dtype=np.int32)
