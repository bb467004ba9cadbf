"""Questions to count models: compiled routines give what NumPy gives, and states what whole texts give."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.ngram import arpa_lines, arpa_routines, native, queries, smoothing
from lmseq.ngram.backoff import BackoffTables, score_words
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, UNK_ID, count_ngrams
from lmseq.ngram.queries import NativeQueries, Queries, make_queries
from lmseq.ngram.words import look_up
from tests import sanitize
from tests.ngrams import V, marked, sentences

WORDS = ["a", "the_longest_word_of_all", "é"]
MAKERS = [
    lambda counts: smoothing.modified_kneser_ney(counts, discount_fallback=True).tables,
    lambda counts: smoothing.stupid_backoff(counts).tables,
    lambda counts: smoothing.epsilon(counts, [0.5] * len(counts), fallback="unigram").tables,
    lambda counts: smoothing.maximum_likelihood(counts).tables,
]
ids = st.lists(st.sampled_from([UNK_ID, EOS_ID, *range(FIRST_WORD_ID, V)]), max_size=9)
blanks = st.text(" \t\r\0\n", min_size=1, max_size=3)
lines = st.lists(
    st.tuples(st.sampled_from([*WORDS, "b", "the_longest_word_of_alm", "<unk>", "\v", "\u00a0"]), blanks),
    max_size=40,
).map(lambda pairs: "".join(word + blank for word, blank in pairs))


def tables_of(texts, order: int, maker: int = 0) -> BackoffTables:
    order = min(order, max(map(len, texts)) + 2)
    return MAKERS[maker](count_ngrams(marked(texts), V, order))


recipes = st.tuples(sentences, st.integers(1, 5), st.integers(0, len(MAKERS) - 1))  # of `tables_of`


@pytest.fixture(scope="module", params=["numpy", "native"])
def make(request):
    """One way to make queries, then the other."""
    if request.param == "native":
        request.getfixturevalue("compiled_counts")
    return lambda tables, words=WORDS: make_queries(tables, words, request.param)


def same(left, right) -> bool:
    """To the last bit; a zero of either sign."""
    return np.array_equal(np.asarray(left) + 0.0, np.asarray(right) + 0.0)


@given(recipes, lines)
def test_a_sentence_is_scored_as_a_text_of_one_line(make, recipe, line):
    tables = tables_of(*recipe)
    asked = make(tables)
    one_line = line.replace("\n", " ") + "\n"
    stream = look_up([one_line.encode()], [word.encode() for word in WORDS])
    expected = score_words(tables, stream)
    np.testing.assert_array_equal(asked.encode(line), stream[1:-1])
    assert same(asked.score_words(line), expected[1:]) and same(asked.score_stream(stream), expected)
    assert same(asked.score(line), np.cumsum(expected)[-1])


@settings(max_examples=100)
@given(recipes, ids, st.booleans())
def test_words_one_after_the_other_are_the_text(make, recipe, words, from_within):
    """What a state remembers is enough, and a word may be given as it is written."""
    tables = tables_of(*recipe)
    asked = make(tables)
    stream = np.array([*([] if from_within else [BOS_ID]), *words], np.int32)
    state, found = asked.nothing if from_within else asked.begin, []
    for word in words:
        written = {UNK_ID: "<unk>", EOS_ID: "</s>"}.get(word) or WORDS[word - FIRST_WORD_ID]
        longer, log_prob = asked.extend(state, word)
        assert asked.extend(state, written) == (longer, log_prob) or np.isnan(log_prob)
        state = longer
        found.append(log_prob)
    assert same(found, score_words(tables, stream)[len(stream) - len(words) :])
    assert asked.extend(state, BOS_ID) == (asked.begin, 0.0) == asked.extend(state, "<s>")


@settings(max_examples=100)
@given(recipes, st.lists(ids, min_size=1, max_size=6), st.lists(st.integers(0, V - 1), max_size=3))
def test_equal_states_have_equal_futures(make, recipe, histories, future):
    asked = make(tables_of(*recipe))
    groups: dict[bytes, list[list[float]]] = {}
    for history in histories:
        state = asked.begin
        for word in history:
            state, _ = asked.extend(state, word)
        key, found = state, []
        for word in future:
            state, log_prob = asked.extend(state, word)
            found.append(log_prob)
        groups.setdefault(key, []).append(found)
    assert all(same(each, found[0]) for found in groups.values() for each in found)


@settings(max_examples=100)
@given(recipes, st.lists(ids, min_size=1, max_size=5), st.data())
def test_many_hypotheses_at_once(make, recipe, histories, data):
    tables = tables_of(*recipe)
    asked, plain = make(tables), Queries(tables, WORDS)
    states = [plain.nothing]
    for history in histories:
        state = plain.begin
        for word in history:
            state, _ = plain.extend(state, word)
            states.append(state)
    rows = asked.rows(states)
    words = np.array(data.draw(st.lists(st.integers(0, V - 1), min_size=len(rows), max_size=len(rows))))
    longer, log_probs = asked.extend_all(rows, words)
    singly = [plain.extend(state, int(word)) for state, word in zip(states, words, strict=True)]
    assert [row.tobytes() for row in longer] == [state for state, _ in singly]
    assert same(log_probs, [log_prob for _, log_prob in singly])
    assert longer.dtype == np.int32 and asked.extend_all(rows[:0], words[:0])[0].shape == (0, tables.order)


def test_hypotheses_recombine():
    """A history that was never seen weighs nothing and leads nowhere: its last word counts, or nothing."""
    asked = Queries(tables_of([[3, 4, 5], [3, 4, 4], [5, 3]], 3), WORDS)
    long = asked.begin
    for word in (5, 5, 5, 4):
        long, _ = asked.extend(long, word)
    short, _ = asked.extend(asked.nothing, 4)
    assert long == short and hash(long) == hash(short)
    assert asked.extend(asked.nothing, UNK_ID)[0] == asked.nothing


@pytest.mark.parametrize("number", [1, 2, 3, 64, 65, 200])
def test_many_words_after_one_context(compiled_counts, number):
    """Lists of every length that a bisection halves otherwise, and sentences longer than a block."""
    words = range(FIRST_WORD_ID, FIRST_WORD_ID + number)
    texts = [[3, 3, 3, 3, word] for word in words]
    counts = count_ngrams(marked(texts), FIRST_WORD_ID + number, 6)
    tables = smoothing.modified_kneser_ney(counts, discount_fallback=True).tables
    names = [f"w{word}" for word in words]
    rng = np.random.default_rng(number)
    stream = marked([rng.choice([3, *words], size).tolist() for size in (0, 1, 31, 32, 33, 64, 300)] + texts)
    assert same(NativeQueries(tables, names).score_stream(stream), score_words(tables, stream))


def test_mistakes_are_said_alike(make):
    tables = tables_of([[3, 4, 5], [3, 4, 4]], 3)
    asked, other = make(tables), Queries(tables_of([[3, 4, 5], [3, 5, 4]], 3), WORDS)
    state, foreign = asked.begin, other.begin
    damaged = np.frombuffer(state, np.int32).copy()
    damaged[1] = 99
    one, three = asked.rows([state]), np.array([3])
    for question, what in (
        (lambda: asked.score("a </s> b"), "the line has the word </s>, which is kept"),
        (lambda: asked.encode("<s>"), "the line has the word <s>, which is kept"),
        (lambda: asked.word_id("a b"), "expected one word, got 'a b'"),
        (lambda: asked.extend(state, V), f"expected ids of words from 0 to {V - 1}, got {V}"),
        (lambda: asked.extend(state, -1), "expected ids of words from 0"),
        (lambda: asked.extend(state, 2**32 + 3), "expected ids of words from 0"),
        (lambda: asked.extend(foreign, 3), "the one at 0 is another's"),
        (lambda: asked.extend(damaged.tobytes(), 3), "the one at 0 is another's"),
        (lambda: asked.extend(state[:-1], 3), "a state of this model, of 12 bytes, got one of 11"),
        (lambda: asked.extend_all(asked.rows([state, foreign]), np.array([3, 3])), "the one at 1 is"),
        (lambda: asked.extend_all(one[:, :2], three), r"expected states of shape \(1, 3\), one for each"),
        (lambda: asked.extend_all(one, three + V), "expected ids of words"),
        (lambda: asked.score_stream(np.array([BOS_ID, 2**32 + 3])), "expected ids of words"),
        (lambda: make(tables, WORDS[1:]), "expected the 3 words of ids 3, 4, ..., got 2"),
    ):
        with pytest.raises(ValueError, match=what):
            question()


def test_tables_that_do_not_fit_together(compiled_counts):
    tables = tables_of([[3, 4, 5], [3, 4, 4]], 3)
    for field in ("first", "word", "log_prob", "log_backoff"):
        orders = list(tables.orders)
        orders[1] = orders[1]._replace(**{field: getattr(orders[1], field)[:-1]})
        with pytest.raises(ValueError, match="the arrays of order 2 do not fit together"):
            NativeQueries(replace(tables, orders=tuple(orders)), WORDS)


def test_ways_to_ask(compiled_counts, monkeypatch):
    tables = tables_of([[3, 4, 5]], 2)
    assert type(make_queries(tables, WORDS)) is NativeQueries
    assert type(make_queries(tables, WORDS, "numpy")) is Queries
    monkeypatch.setattr(queries.native, "MOST_ORDER", 1)
    assert type(make_queries(tables, WORDS)) is Queries
    monkeypatch.setattr(native._Loaded, "library", None)
    assert type(make_queries(tables, WORDS)) is Queries
    with pytest.raises(ValueError, match="`make native` compiles them"):
        make_queries(tables, WORDS, "native")


def test_more_orders_than_the_routines_take(compiled_counts):
    tables = tables_of([[3] * 70], 66)
    assert type(make_queries(tables, WORDS)) is Queries
    with pytest.raises(ValueError, match="at most 64 orders"):
        NativeQueries(tables, WORDS)


def test_what_make_sanitize_does(compiled_counts, tmp_path, monkeypatch):
    """A little of it, without the sanitizers: damage ends in an answer or in one line."""
    for module, name in ((arpa_lines, "BLOCK"), (arpa_routines, "LEAST_PIECE")):
        monkeypatch.setattr(module, name, getattr(module, name))  # which it changes
    answered = 0
    for seed in range(60):
        sanitize.try_file(tmp_path, np.random.default_rng([seed, 0]), compare=True)
        rng = np.random.default_rng([seed, 1])
        tables, words = sanitize.small_model(rng, 1 + seed % 5)
        with suppress(ValueError), np.errstate(all="ignore"):
            sanitize.try_tables(tables, words, tmp_path, rng)
            answered += 1
    assert 0 < answered < 60
