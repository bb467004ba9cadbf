"""A count model to be asked from Python: a sentence, its words, what may come after a history.

    queries = make_queries(tables, words)
    queries.score("a rose is a rose")                           # ln p of the sentence and its end
    state, log_prob = queries.extend(queries.begin, "a")        # what a decoder calls, one word at a time

A state is what is known of a history: the ranks of the n-grams that it ends with, and the model's number, as
bytes. It is a value: hypotheses whose states are equal have equal futures, and can be recombined. Of a rank
that nothing follows and that weighs nothing a state says no more than that there is none, so that more of
them are equal.

`Queries` is the definition, in NumPy. `NativeQueries` gives the same, to the last bit, by compiled routines,
which are to be loaded first (`native.find`). Log-probabilities are in nats.
"""

import weakref
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Int32

from lmseq.data.corpora import BLANKS
from lmseq.data.marks import BOS, EOS, LINE_END, UNK, refuse_marks
from lmseq.ngram import native
from lmseq.ngram.backoff import OUTSIDE, UNSEEN, BackoffTables, back_off, find_child, score_words
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, UNK_ID

State = bytes  # N numbers of 32 bits
_TO_SPACES = bytes.maketrans(BLANKS.encode(), b" " * len(BLANKS))
_SAMPLE = 1000  # entries at either end of a table that a model is known by


class Queries:
    """Questions to tables whose ids 3, 4, ... are some words; `<unk>` stands for any other.

    words: each distinct, or empty where none stands for an id. begin: the state at the beginning of a
    sentence. nothing: that of a history of which nothing is known. Raises ValueError for another number of
    words than the tables have.
    """

    def __init__(self, tables: BackoffTables, words: Sequence[str]) -> None:
        if len(words) != tables.vocab_size - FIRST_WORD_ID:
            raise ValueError(
                f"expected the {tables.vocab_size - FIRST_WORD_ID} words of ids {FIRST_WORD_ID}, "
                f"{FIRST_WORD_ID + 1}, ..., got {len(words)}"
            )
        self.tables, self._number = tables, _number_of(tables)
        self._marks = {UNK: UNK_ID, BOS: BOS_ID, EOS: EOS_ID, LINE_END: EOS_ID}
        ranks = np.full((2, tables.order), OUTSIDE, np.int32)
        ranks[0, :1] = BOS_ID
        states = self._states(ranks[:, : tables.order - 1])
        self.begin, self.nothing = states[0].tobytes(), states[1].tobytes()
        self._index(words)

    def _index(self, words: Sequence[str]) -> None:
        """Make words known by their UTF-8."""
        self._ids = {word.encode(): i for i, word in enumerate(words, start=FIRST_WORD_ID) if word}

    # Words and sentences

    def encode(self, line: str) -> Int32[np.ndarray, "words"]:
        """Ids of the words between the blanks of a line, int32 (T,); ValueError for one kept for ends."""
        refuse_marks(line, "the line")
        words = line.encode().translate(_TO_SPACES).split(b" ")
        return np.array([self._ids.get(word, UNK_ID) for word in words if word], np.int32)

    def word_id(self, word: str) -> int:
        """The id of one word, or of `<s>` or `</s>`."""
        mark = self._marks.get(word)
        if mark is not None:
            return mark
        ids = self.encode(word)
        if len(ids) != 1:
            raise ValueError(f"expected one word, got {word!r}")
        return int(ids[0])

    def score_words(self, line: str) -> Float[np.ndarray, "words"]:
        """ln p of each word of a sentence, given those before, and of its end, float64 (T + 1,)."""
        return self.score_stream(np.concatenate([[BOS_ID], self.encode(line), [EOS_ID]]).astype(np.int32))[1:]

    def score(self, line: str) -> float:
        """ln p of a sentence and its end: the sum of `score_words`, from left to right."""
        return float(np.cumsum(self.score_words(line))[-1])

    def score_stream(self, stream: Int[np.ndarray, "time"]) -> Float[np.ndarray, "time"]:
        """`backoff.score_words` of a stream of marked sentences; ValueError for what is no id."""
        self._check_ids(stream)
        return score_words(self.tables, stream)

    # Hypotheses

    def extend(self, state: State, word: int | str) -> tuple[State, float]:
        """The state after one word more, by its id or as it is written, and ln p of the word after the state.

        `<s>` begins a sentence: it is given, so that ln p is 0. Raises ValueError for a state of another
        model, and for what is no word.
        """
        rows = np.frombuffer(self._check_size(state), np.int32)[None]
        word = self.word_id(word) if isinstance(word, str) else word
        states, log_probs = self.extend_all(rows, np.array([word]))
        return states.tobytes(), float(log_probs[0])

    def extend_all(
        self, states: Int32[np.ndarray, "batch order"], words: Int[np.ndarray, "batch"]
    ) -> tuple[Int32[np.ndarray, "batch order"], Float[np.ndarray, "batch"]]:
        """`extend` of many hypotheses S at once: states int32 (S, N), ids (S,); ln p float64 (S,).

        A row's bytes are a state; equal rows are equal states.
        """
        self._check_states(states, len(words))
        self._check_ids(words)
        words, begins = words.astype(np.int64), words == BOS_ID
        contexts = states[:, 1:].astype(np.int64).T
        ranks = [find_child(self.tables, n, context, words) for n, context in enumerate(contexts, start=2)]
        log_probs = np.where(begins, 0.0, back_off(self.tables, words, zip(contexts, ranks, strict=True)))
        longer = np.array([words, *(np.where(begins, OUTSIDE, rank) for rank in ranks)])
        return self._states(longer[: self.tables.order - 1].T), log_probs

    def rows(self, states: Sequence[State]) -> Int32[np.ndarray, "batch order"]:
        """States as `extend_all` takes them."""
        joined = b"".join(map(self._check_size, states))
        return np.frombuffer(joined, np.int32).reshape(len(states), self.tables.order)

    def _states(self, ranks: Int[np.ndarray, "batch context"]) -> Int32[np.ndarray, "batch order"]:
        """The model's number, and ranks, those that make no difference as UNSEEN."""
        states = np.full((len(ranks), self.tables.order), self._number, np.int32)
        states[:, 1:] = ranks
        if self.tables.log_unseen == 0.0 and self.tables.fallback == "shorter":
            for n, rank in enumerate(states.T[1:], start=1):
                place = np.maximum(rank, 0)
                first, weights = self.tables.orders[n].first, self.tables.orders[n - 1].log_backoff
                if len(weights):
                    weighs = (first[place] < first[place + 1]) | (weights[place] != 0.0)
                    rank[~weighs] = UNSEEN
                rank[rank < 0] = UNSEEN
        return states

    # Mistakes

    def _check_size(self, state: State) -> State:
        if len(state) != 4 * self.tables.order:
            raise ValueError(
                f"expected a state of this model, of {4 * self.tables.order} bytes, got one of {len(state)}: "
                "begin with its `begin`"
            )
        return state

    def _check_states(self, states: Int32[np.ndarray, "batch order"], number: int) -> None:
        if states.shape != (number, self.tables.order):
            raise ValueError(
                f"expected states of shape {(number, self.tables.order)}, one for each word, "
                f"got {states.shape}"
            )
        sizes = np.array(self.tables.num_ngrams[:-1])
        good = states[:, 0] == self._number
        good &= ((states[:, 1:] >= OUTSIDE) & (states[:, 1:] < sizes)).all(axis=1)
        if not good.all():
            place = int(np.flatnonzero(~good)[0])
            raise ValueError(
                f"expected states of this model, the one at {place} is another's: begin with its `begin`"
            )

    def _check_ids(self, words: Int[np.ndarray, "_"]) -> None:
        bad = (words < 0) | (words >= self.tables.vocab_size)
        if bad.any():
            place = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"expected ids of words from 0 to {self.tables.vocab_size - 1}, got {int(words[place])}"
            )


class NativeQueries(Queries):
    """The same by compiled routines, and many times as fast.

    Besides the tables, which may be files that are mapped, it holds the words, and 16 to 32 bytes for each
    2-gram and 3-gram of orders with less than 2**24. Raises ValueError where no routines are loaded, and for
    tables that they cannot take.
    """

    def _index(self, words: Sequence[str]) -> None:
        self._library = native.library()
        written = [word.encode() for word in words]
        self._model, self._kept = native.open_model(self.tables, written, self._number)
        weakref.finalize(self, self._library.lmseq_free, self._model)
        self._score, self._extend = native.functions_of(self._model)

    def encode(self, line: str) -> Int32[np.ndarray, "words"]:
        """As `Queries` has it."""
        data = line.encode()
        found = np.empty((len(data) + 1) // 2, np.int32)
        number = self._library.lmseq_words(self._model, data, len(data), found.ctypes.data)
        if number < 0:
            refuse_marks(line, "the line")
        return found[:number].copy()

    def score(self, line: str) -> float:
        """As `Queries` has it."""
        found = self._score(line)
        return found if found == found else super().score(line)

    def score_stream(self, stream: Int[np.ndarray, "time"]) -> Float[np.ndarray, "time"]:
        """As `Queries` has it."""
        self._check_ids(stream)
        words, found = np.ascontiguousarray(stream, np.int32), np.empty(len(stream))
        self._library.lmseq_stream(self._model, words.ctypes.data, len(words), found.ctypes.data)
        return found

    def extend(self, state: State, word: int | str) -> tuple[State, float]:
        """As `Queries` has it."""
        found = self._extend(state, self.word_id(word) if isinstance(word, str) else word)
        return found if isinstance(found, tuple) else super().extend(state, word)

    def extend_all(
        self, states: Int32[np.ndarray, "batch order"], words: Int[np.ndarray, "batch"]
    ) -> tuple[Int32[np.ndarray, "batch order"], Float[np.ndarray, "batch"]]:
        """As `Queries` has it."""
        self._check_states(states, len(words))
        self._check_ids(words)
        arrays = np.ascontiguousarray(states), np.ascontiguousarray(words, np.int32)
        longer, log_probs = np.empty_like(arrays[0]), np.empty(len(words))
        places = [array.ctypes.data for array in (*arrays, longer, log_probs)]
        self._library.lmseq_extend_all(self._model, *places[:2], len(words), *places[2:])
        return longer, log_probs


def make_queries(
    tables: BackoffTables, words: Sequence[str], backend: Literal["auto", "numpy", "native"] = "auto"
) -> Queries:
    """Queries of tables by NumPy, by compiled routines, or (auto) by these where they are loaded."""
    if backend == "auto":
        backend = "native" if native.is_loaded() and tables.order <= native.MOST_ORDER else "numpy"
    return (NativeQueries if backend == "native" else Queries)(tables, words)


def _number_of(tables: BackoffTables) -> int:
    """A checksum, int32, that two models hardly share: of sizes and of entries at both ends of each order."""
    number = zlib.crc32(np.array([tables.log_unseen, *tables.num_ngrams]).tobytes())
    for table in tables.orders:
        for array in (table.word, table.log_prob):
            number = zlib.crc32(np.concatenate([array[:_SAMPLE], array[-_SAMPLE:]]).tobytes(), number)
    return number - (1 << 31)
