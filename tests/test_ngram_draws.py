"""Words drawn entry by entry have the probabilities of whole distributions, after every context."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmseq import generation
from lmseq.models import ngram, ngram_draws
from lmseq.models.ngram import put_tables
from lmseq.models.ngram_draws import UNIT, bisect
from lmseq.ngram import smoothing
from lmseq.ngram.arpa import read_arpa
from lmseq.ngram.counts import EOS_ID, UNK_ID, count_ngrams
from lmseq.sampling import Decoding
from tests.ngrams import V, marked

LINES = [[3, 4, 5, 3], [4, 4, 3], [], [5, 3, 4], [3, 4, 4, 5, 5, 3], [4, 5, 3, 4, 4, 5]]
WORDS, NO_END = np.array([3, 4, 5, EOS_ID]), np.array([3, 4, 5])
# From a sentence's beginning, from within, and after what no table has.
HISTORIES = ([], [0], [1, 1], [0, 1, 1], [1, 2, 0], [2, 2, 2, 2], [0, 1, 1, 2, 2], [2, 1, 2, 1, 0])
DRAWS = 4000  # of each
NOTHING = np.zeros(0, np.int32)
SLOW = ("order 5, unknown words are symbol 0", "what was counted", "scores")


def kneser_ney(order: int):
    return smoothing.modified_kneser_ney(count_ngrams(marked(LINES), V, order), discount_fallback=True).tables


def no_distribution():
    """Sums of several times one, and weights that are too large by as much, which an ARPA file may hold."""
    tables = kneser_ney(3)
    orders = [
        table._replace(log_prob=0.3 * table.log_prob, log_backoff=table.log_backoff + 1.5)
        for table in tables.orders
    ]
    return replace(tables, orders=tuple(orders))


MADE = {
    "unigrams": (lambda: kneser_ney(1), WORDS, False),
    "order 2, <unk> is a word's too": (lambda: kneser_ney(2), WORDS, True),
    "order 3, no end of lines": (lambda: kneser_ney(3), NO_END, False),
    "order 5, unknown words are symbol 0": (lambda: kneser_ney(5), np.array([UNK_ID, 3, 4, 5, EOS_ID]), True),
    "what was counted": (
        lambda: smoothing.maximum_likelihood(count_ngrams(marked(LINES), V, 3)).tables,
        WORDS,
        False,
    ),
    "scores": (lambda: smoothing.stupid_backoff(count_ngrams(marked(LINES), V, 3)).tables, WORDS, False),
    "no distribution": (no_distribution, WORDS, False),
}


@cache
def made(name: str):
    tables, word_of, has_unknown = MADE[name]
    return put_tables(tables(), word_of, has_unknown=has_unknown)


drawing = jax.jit(lambda model, *given: model.draw(*given), static_argnums=(0, 5))


def carries_after(model, params, histories=HISTORIES):
    """A row for each history."""
    carries = []
    for history in histories:
        carry = model.init_carry(params, 1)
        carries.append(model.carries(params, carry, jnp.array([history]))[:, -1] if history else carry)
    return jnp.concatenate(carries)


def drawn_from(model, params, never=(), histories=HISTORIES, draw=drawing):
    """Of each history DRAWS rows: carry, symbols, ln p and next carry; and the distribution after each."""
    carry = carries_after(model, params, histories)
    probs = np.exp(np.asarray(model.readout(params, carry), np.float64))
    rows, tables = jnp.repeat(carry, DRAWS, axis=0), model.prepare_draws(params)
    after, symbols, log_probs = draw(model, params, tables, rows, jax.random.key(7), never)
    return rows, np.asarray(symbols).reshape(len(histories), -1), np.asarray(log_probs), after, probs


def agrees(symbols, probs) -> bool:
    """Whether counts are those of probabilities, which need not sum to one, and what has none never comes."""
    counts, expected = np.bincount(symbols, minlength=len(probs)), len(symbols) * probs / probs.sum()
    assert not counts[probs == 0.0].any()
    often = expected >= 5
    found, wanted = (np.append(each[often], each[~often].sum()) for each in (counts, expected))
    kept = wanted > 0
    return kept.sum() == 1 or stats.chisquare(found[kept], wanted[kept]).pvalue > 1e-4


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MADE]
)
def test_draws_follow_the_whole_distribution(name):
    model, params = made(name)
    rows, symbols, log_probs, after, probs = drawn_from(model, params)
    for history, found, expected in zip(HISTORIES, symbols, probs, strict=True):
        assert agrees(found, expected), history
    expected = np.log(np.take_along_axis(probs, symbols, axis=1)).ravel()
    np.testing.assert_allclose(log_probs, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(after, model.update(params, rows, jnp.asarray(symbols.ravel())))


@pytest.mark.parametrize("never", [(1, 3), (0, 1, 2, 3)])
def test_what_is_left_out_comes_only_where_nothing_else_can(never):
    model, params = made("order 2, <unk> is a word's too")
    _, symbols, _, _, probs = drawn_from(model, params, never)
    left = np.where(np.isin(np.arange(4), never), 0.0, probs)
    for found, expected in zip(symbols, left if left.any() else probs, strict=True):
        assert agrees(found, expected)


def test_where_no_proposal_is_accepted_whole_distributions_are_drawn_from(monkeypatch):
    """Rounds that are too few change no distribution."""
    monkeypatch.setattr(ngram_draws, "ROUNDS", 1)
    model, params = made("order 2, <unk> is a word's too")
    draw = jax.jit(lambda model, *given: model.draw(*given), static_argnums=(0, 5))
    _, symbols, log_probs, _, probs = drawn_from(model, params, draw=draw)
    for found, expected in zip(symbols, probs, strict=True):
        assert agrees(found, expected)
    expected = np.log(np.take_along_axis(probs, symbols, axis=1)).ravel()
    np.testing.assert_allclose(log_probs, expected, rtol=2e-5, atol=2e-6)


def test_rows_side_by_side_are_rows_one_by_one(monkeypatch):
    """What a CPU does is what other devices do, bit for bit."""
    model, params = made("order 2, <unk> is a word's too")
    tables, carry = model.prepare_draws(params), model.init_carry(params, 200)
    alone = jax.jit(lambda *given: model.draw(*given))(params, tables, carry, jax.random.key(3))
    for module in (ngram, ngram_draws):
        monkeypatch.setattr(module, "each_row", lambda function, *rows: jax.vmap(function)(*rows))
    together = jax.jit(lambda *given: model.draw(*given))(params, tables, carry, jax.random.key(3))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_streams_are_drawn_so_of_many_symbols_where_nothing_is_truncated(monkeypatch):
    model, params = made("order 2, <unk> is a word's too")
    given = {"num_samples": 40, "num_tokens": 30}
    assert generation.prepare_draws(model, params, Decoding()) is None
    monkeypatch.setattr(generation, "MANY", 2)
    one, again, other, whole = (
        generation.sample_streams(jax.random.key(seed), model, params, NOTHING, **given, decoding=decoding)
        for seed, decoding in ((0, Decoding()), (0, Decoding()), (1, Decoding()), (0, Decoding(top_k=3)))
    )
    assert (one.tokens == again.tokens).all()
    assert (one.tokens != other.tokens).any() and (one.tokens != whole.tokens).any()
    carry = model.init_carry(params, 40)
    first = jnp.take_along_axis(model.readout(params, carry), one.tokens[:, :1], axis=1)
    rest = model.token_log_probs(params, carry, one.tokens[:, :-1], one.tokens[:, 1:])[1]
    np.testing.assert_allclose(one.log_probs, jnp.concatenate([first, rest], axis=1), rtol=2e-5, atol=2e-6)
    for decoding in (Decoding(temperature=0.5), Decoding(top_k=2), Decoding(top_p=0.5)):
        assert generation.prepare_draws(model, params, decoding) is None
    assert replace(model, fallback="unigram").prepare_draws(params) is None


def test_probabilities_are_kept_to_half_a_unit():
    """To float32 and half a unit, also where the sums before have passed 2^32 often."""
    model, params = made("order 5, unknown words are symbol 0")
    cumulative = np.asarray(model.prepare_draws(params).cumulative, np.int64)
    probs = np.exp(np.concatenate([table.log_prob for table in params.tables]).astype(np.float64))
    assert cumulative.size == probs.size + 1 and probs.sum() > 4
    assert (np.abs(np.diff(cumulative) % 2**32 - UNIT * probs) < 0.51 + 3e-7 * UNIT * probs).all()


def test_orders_without_an_entry_have_nothing_to_draw(tmp_path):
    path = tmp_path / "unigrams.arpa"
    head = "\\data\\\nngram 1=4\nngram 2=0\nngram 3=0\n\n"
    words = "\\1-grams:\n-99\t<s>\t0\n-0.5\t</s>\n-0.6\t<unk>\n-0.4\ta\t0\n\n"
    path.write_text(head + words + "\\2-grams:\n\n\\3-grams:\n\n\\end\\\n")
    model, params = put_tables(read_arpa(path).tables, np.array([UNK_ID, 3], np.int32), has_unknown=True)
    carry = model.init_carry(params, 2000)
    drawn = np.asarray(model.draw(params, model.prepare_draws(params), carry, jax.random.key(0))[1])
    expected = float(np.exp(model.readout(params, carry)[0, 1]))
    assert drawn.mean() == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5)


number = st.integers(0, 2**32 - 1)


@given(number, number)
def test_products_keep_their_upper_half(one, other):
    found = ngram_draws._scaled(*(jnp.array([each], jnp.uint32) for each in (one, other)))
    assert int(found[0]) == one * other >> 32


@given(st.lists(st.integers(0, 9), min_size=9, max_size=9), st.integers(0, 10), st.data())
def test_bisection_is_a_search(values, wanted, data):
    values = np.sort(values).astype(np.int32)
    low = data.draw(st.integers(0, 9))
    high = data.draw(st.integers(low, 9))
    found = searching(values, np.int32(wanted), np.int32(low), np.int32(high))
    assert int(found) == low + int(np.searchsorted(values[low:high], wanted))


searching = jax.jit(lambda values, wanted, low, high: bisect(values, 0, wanted, low, high, 9))
