"""What a model found likely in the place of each token: by two ways, and against the scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import alternatives as module
from lmseq import scoring
from lmseq.alternatives import alternatives
from lmseq.config.counts import CountConfig
from lmseq.config.language_model import ModelConfig
from lmseq.contract import scan_unroll
from lmseq.data.texts import Texts
from lmseq.data.tokens import Corpus, build_vocab
from lmseq.models import ngram_alternatives as by_numpy
from lmseq.models.build import build_model
from lmseq.models.ngram import fit_counts, put_tables
from lmseq.ngram import smoothing
from lmseq.ngram.corpus import number_texts
from lmseq.ngram.counts import count_ngrams

LINES = "the cat sat on the mat\na dog ran\n\nthe dog sat on a cat\n" * 6
UNSEEN = "a mouse sat on the dog\nzebras ran\n"


def texts_of(level: str) -> Texts:
    vocab = build_vocab(LINES, name="x", level=level)
    parts = {"train": LINES, "valid": UNSEEN, "test": ""}
    return Texts(Corpus("x", **parts), vocab, {split: vocab.encode(text) for split, text in parts.items()})


def distributions(found):
    """Rows (T, V) of alternatives that are all symbols."""
    rows = np.full(found.ids.shape, np.nan, np.float32)
    np.put_along_axis(rows, found.ids, found.id_log_probs, axis=1)
    return rows


def agree(found, model, params, tokens, vocab_size):
    """With the contract's: as likely, and of the symbols that are so likely there, each once."""
    rows = distributions(alternatives(model, params, tokens, vocab_size, vocab_size))
    count = found.ids.shape[1]
    expected = alternatives(model, params, tokens, vocab_size, count)
    assert found.ids.shape == expected.ids.shape and found.ids.dtype == expected.ids.dtype
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_allclose(found.id_log_probs, expected.id_log_probs, atol=1e-5)
    np.testing.assert_allclose(found.id_log_probs, np.take_along_axis(rows, found.ids, axis=1), atol=1e-5)
    assert all(len(set(row)) == count for row in found.ids.tolist())


@pytest.mark.parametrize("entries", [1, 60, 2**22])
def test_a_net_s_are_those_of_the_scan(monkeypatch, entries):
    """Whatever the pieces that the text is read in; the first token is predicted before anything is seen."""
    monkeypatch.setattr(module, "MOST_ENTRIES", entries)
    model = build_model(ModelConfig(model="gru", hidden_size=8), 7)
    params = model.init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, 7, 23).astype(np.int32)
    found = alternatives(model, params, tokens, 7, 3)
    carry = model.init_carry(params, 1)
    rows = scan_unroll(model, params, carry, jnp.asarray(tokens)[None])[1][0]
    rows = np.concatenate([model.readout(params, carry), rows])[:-1]
    np.testing.assert_allclose(found.log_probs, scoring.score(model, params, tokens), atol=1e-5)
    np.testing.assert_allclose(found.log_probs, rows[np.arange(23), tokens], atol=1e-5)
    np.testing.assert_allclose(found.id_log_probs, -np.sort(-rows, axis=1)[:, :3], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(rows, found.ids, 1), found.id_log_probs, atol=1e-5)


@pytest.mark.parametrize("level", ["char", "word"])
def test_counts_by_numpy_are_those_of_the_contract(monkeypatch, level):
    """With words that no symbol stands for, unknown ones, and ends of lines that begin a sentence anew."""
    monkeypatch.setattr(by_numpy, "MOST_ENTRIES", 100)
    texts = texts_of(level)
    counts, size = fit_counts(texts, 4, 4), len(texts.vocab)
    word_of = np.asarray(counts.params.word_of)
    for split in ("valid", "train"):
        ids = texts.ids[split][:60]
        found = by_numpy.ngram_alternatives(counts.model, counts.tables, word_of, ids, 5)
        agree(found, counts.model, counts.params, ids, size)
        np.testing.assert_allclose(
            found.log_probs, scoring.score(counts.model, counts.params, ids), atol=1e-5
        )


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("kind", ["epsilon_unigram", "witten_bell"])
def test_every_smoothing_and_order(kind, order):
    texts = texts_of("word")
    word_of, num_words, streams = number_texts(texts)
    counted = count_ngrams(streams["train"], num_words, order)
    tables = smoothing.estimate(
        CountConfig(order=order, smoothing=kind), counted, epsilons=[0.5] * order
    ).tables
    model, params = put_tables(tables, word_of, has_unknown=True)
    ids = texts.ids["valid"]
    found = by_numpy.ngram_alternatives(model, tables, word_of, ids, 4)
    agree(found, model, params, ids, len(texts.vocab))


@pytest.mark.parametrize("count, block", [(1, 64), (3, 64), (30, 64), (1, 2), (3, 2), (5, 1)])
def test_equally_likely_ones_stand_in_the_order_of_their_ids(monkeypatch, count, block):
    """As those of the contract do: an unknown symbol and words that came once are often as likely."""
    monkeypatch.setattr(by_numpy, "BLOCK", block)
    texts = texts_of("word")
    counts, ids = fit_counts(texts, 3), texts.ids["valid"]
    given = counts.model, counts.tables, np.asarray(counts.params.word_of), ids
    rows = distributions(by_numpy.ngram_alternatives(*given, len(texts.vocab)))
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    assert any(len(set(row)) < row.size for row in rows)
    np.testing.assert_array_equal(by_numpy.ngram_alternatives(*given, count).ids, expected)


def test_no_text_has_none():
    model = build_model(ModelConfig(model="gru", hidden_size=2), 3)
    with pytest.raises(ValueError, match="at least one token"):
        alternatives(model, model.init(jax.random.key(0)), np.zeros(0, np.int32), 3, 2)
    counts = fit_counts(texts_of("char"), 2)
    word_of = np.asarray(counts.params.word_of)
    with pytest.raises(ValueError, match="at least one token"):
        by_numpy.ngram_alternatives(counts.model, counts.tables, word_of, np.zeros(0, np.int32), 2)
