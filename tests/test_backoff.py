"""Back-off tables: looked up a text at a time, on the host and on the device, equal to one word at a time."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq import scoring
from lmseq.models.ngram import put_tables
from lmseq.ngram import backoff, smoothing
from lmseq.ngram.backoff import find_ranks, score_words
from lmseq.ngram.counts import BOS_ID, EOS_ID, FIRST_WORD_ID, UNK_ID, count_ngrams
from tests.ngrams import V, dictionaries, looked_up, marked, sentences

text = st.lists(st.sampled_from([UNK_ID, *range(FIRST_WORD_ID, V)]), max_size=9)


def model_of(texts, order: int = 3):
    order = min(order, max(map(len, texts)) + 2)
    return smoothing.modified_kneser_ney(count_ngrams(marked(texts), V, order), discount_fallback=True).tables


def one_by_one(tables, words) -> list[float]:
    """ln p of each word of one sentence and of its end."""
    entries, whole = dictionaries(tables), (BOS_ID, *words, EOS_ID)
    return [
        math.log(looked_up(entries, w, whole[max(0, i + 1 - tables.order) : i]))
        for i, w in enumerate(whole)
        if i
    ]


@settings(max_examples=40)
@given(sentences, st.lists(text, min_size=1, max_size=4))
def test_a_text_at_a_time_is_one_word_at_a_time(train, texts):
    tables = model_of(train)
    stream = marked(texts)
    found = score_words(tables, stream)
    assert (found[stream == BOS_ID] == 0.0).all()
    expected = [log_prob for words in texts for log_prob in one_by_one(tables, words)]
    np.testing.assert_allclose(found[stream != BOS_ID], expected, rtol=1e-12)


@settings(max_examples=20)
@given(sentences, text)
def test_another_word_in_the_place_of_each(train, words):
    tables, stream = model_of(train), marked([words])
    everywhere = np.array([score_words(tables, stream, word) for word in range(V)])
    np.testing.assert_allclose(np.exp(everywhere[:, 1:]).sum(axis=0), 1.0)
    np.testing.assert_allclose(everywhere[stream, np.arange(len(stream))], score_words(tables, stream))


@settings(max_examples=20)
@given(sentences, st.lists(text, min_size=1, max_size=4))
def test_ranks_of_lower_orders_are_those_of_higher_ones(train, texts):
    """Which are found once where models of all orders are tried; what they score is the same to the bit."""
    stream, ranks = marked(texts), []
    for order in range(1, min(4, max(map(len, train)) + 2) + 1):
        tables = model_of(train, order)
        ranks = find_ranks(tables, stream, ranks)
        whole = find_ranks(tables, stream)
        assert len(ranks) == order == tables.order and all(map(np.array_equal, ranks, whole))
        assert np.array_equal(score_words(tables, stream, known=ranks), score_words(tables, stream))


@settings(max_examples=20)
@given(sentences, text)
def test_large_tables_are_bisected(train, words):
    """Without a copy of the keys, what is found is the same; and where few words are looked up."""
    tables, stream = model_of(train), marked([words])
    expected = score_words(tables, stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backoff, "LARGE", 1)
        bisected = model_of(train)
        np.testing.assert_array_equal(score_words(bisected, stream), expected)
        assert not bisected._keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            backoff, "ENTRIES_A_WORD", 1e-3
        )  # keys are made once a thousand words an entry were asked
        tables = model_of(train)
        for _ in range(3):
            np.testing.assert_array_equal(score_words(tables, stream), expected)
        assert not tables._keys
        tables._asked.update({n: 10**9 for n in range(2, tables.order + 1)})
        np.testing.assert_array_equal(score_words(tables, stream), expected)
        assert len(tables._keys) == tables.order - 1


def test_nothing_to_score():
    assert score_words(model_of([[3]]), marked([])).shape == (0,)


LINES = [[3, 4, 5, 3], [4, 4, 3], [], [5, 3, 4], [3, 4, 4, 5, 5, 3]]


def test_on_the_device_as_on_the_host():
    """Words, one of which is the text's <unk>, with the ends of lines: symbols 0, 1, 2 and <eos>."""
    tables = model_of(LINES, 4)
    word_of = np.array([3, 4, 5, EOS_ID])
    model, params = put_tables(tables, word_of, has_unknown=True)
    assert (model.also_unknown, model.impossible) == ((UNK_ID,), ())
    stream = marked([[4, 5, 3, 4, 5], [5, 5], [], [3]])
    symbols = np.array([list(word_of).index(w) for w in stream[stream != BOS_ID]])
    both = np.logaddexp(score_words(tables, stream), score_words(tables, stream, UNK_ID))
    expected = np.where(stream == 3, both, score_words(tables, stream))[stream != BOS_ID]
    found = scoring.score_stream(model, params, symbols, num_steps=3, batch_size=2)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize(
    "made",
    [
        lambda c: smoothing.stupid_backoff(c),
        lambda c: smoothing.epsilon(c, [0.5, 1.0, 2.0], fallback="unigram"),
        lambda c: smoothing.maximum_likelihood(c),
    ],
)
def test_other_ways_to_fall_back_on_the_device(made):
    """Scores that are no probabilities are not made to sum to one; what is impossible stays so."""
    tables = made(count_ngrams(marked(LINES), V, 3)).tables
    model, params = put_tables(tables, np.array([3, 4, 5, EOS_ID]), has_unknown=False)
    assert model.impossible == ((UNK_ID,) if tables.is_proper() else ())
    stream = marked([[4, 5, 3, 4, 5], [5, 5], [], [3]])
    expected = score_words(tables, stream)[stream != BOS_ID]
    if model.impossible:
        unknown = np.exp(score_words(tables, stream, UNK_ID)[stream != BOS_ID])
        expected = expected - np.log(np.where(unknown < 1.0, 1.0 - unknown, 1.0))
    symbols = np.array([[3, 4, 5, EOS_ID].index(w) for w in stream[stream != BOS_ID]])
    found = scoring.score_stream(model, params, symbols, num_steps=3, batch_size=2)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    carry = model.carries(params, model.init_carry(params, 1), jnp.asarray(symbols[None, :-1]))
    log_probs = model.readout(params, carry[0])
    picked = np.take_along_axis(np.asarray(log_probs), symbols[1:, None], axis=1)[:, 0]
    np.testing.assert_allclose(picked, expected[1:], rtol=2e-6)


def test_what_no_symbol_stands_for_never_comes():
    """Without a symbol for <unk> and </s>, distributions are the tables' given that neither comes."""
    tables = model_of(LINES)
    model, params = put_tables(tables, np.array([3, 4, 5]), has_unknown=False)
    assert model.impossible == (UNK_ID, EOS_ID)
    carry = model.init_carry(params, 1)
    for x in ([0], [2]):
        carry = model.update(params, carry, jnp.array(x))
    stream = marked([[3, 5, 3]])  # up to the third word, what follows is not looked at
    words = np.array([score_words(tables, stream, word)[3] for word in (3, 4, 5)])
    expected = words - np.log(np.exp(words).sum())
    np.testing.assert_allclose(model.readout(params, carry)[0], expected, rtol=2e-6)


def test_a_model_that_knows_nothing_is_uniform():
    model, _ = put_tables(model_of(LINES), np.array([3, 4, 5, EOS_ID]), has_unknown=False)
    params = model.init(jax.random.key(0))
    log_probs = model.readout(params, model.init_carry(params, 2))
    np.testing.assert_allclose(np.exp(log_probs), 0.25, rtol=1e-6)


def test_sizes():
    tables = model_of(LINES, 2)
    assert tables.num_ngrams == [len(table.word) for table in tables.orders]
    assert tables.num_bytes == sum(array.nbytes for table in tables.orders for array in table)
    assert tables.is_proper()
    assert not replace(tables, log_unseen=-1.0).is_proper()


@pytest.mark.parametrize("order", [1, 2, 10])
def test_low_and_high_orders(order):
    texts = [[3, 4, 5, 3, 4, 5, 3, 4, 4, 3], [4, 5, 5, 5, 3]]
    tables = model_of(texts, order)
    assert tables.order == order
    np.testing.assert_allclose(
        score_words(tables, marked([[3, 4, 5, 4]]))[1:], one_by_one(tables, [3, 4, 5, 4]), rtol=1e-12
    )
