"""Text to ids and back: exact round trips, the field's counts, and nothing learned from other text."""

import inspect
import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data.corpora import RawCorpus, read_corpus
from lmseq.data.tokens import (
    EOS,
    UNK,
    Vocab,
    build_vocab,
    normalize_text,
    prepare_corpus,
    split_words,
)

LEVELS = ("byte", "char", "word", "bpe")
VERSE = "the time machine by h g wells\nthe time traveller\n\nso it will be convenient\n"
AWKWARD = [
    "",
    " ",
    "  two leading",
    "cr\r\nlf\n\r",
    "nul\x00",
    "🐍👩‍👩‍👧 e\u0301 é",
    "\ufeffbom",
    "a\u2028b\x85",
    "<unk> <eos>",
]


@pytest.fixture(scope="module")
def bpe() -> Vocab:
    return build_vocab(VERSE * 20, level="bpe", bpe_vocab_size=300)


def vocab_of(level: str) -> Vocab:
    return build_vocab(VERSE, level=level, bpe_vocab_size=270)


# Normalisation and splits


def test_letters_keeps_ascii_letters_only():
    assert normalize_text("I said: 'No!'\r\n\tNaïve, x2", "letters") == "i said no na ve x "
    # Their lower case is an ASCII letter, or has one; they are none themselves.
    assert normalize_text("a\u212ab\u0130c", "letters") == "a b c"


@given(st.text())
def test_normalisation_is_idempotent(text):
    once = normalize_text(text, "letters")
    assert normalize_text(once, "letters") == once
    assert set(once) <= set("abcdefghijklmnopqrstuvwxyz ") and "  " not in once
    assert normalize_text(text, "none") == text


def test_unknown_kinds():
    # Unwrapped: under the tests, the annotations are checked first.
    with pytest.raises(ValueError, match="expected normalize none or letters, got 'upper'"):
        inspect.unwrap(normalize_text)("text", "upper")
    with pytest.raises(ValueError, match="expected level byte, char, word or bpe, got 'line'"):
        inspect.unwrap(build_vocab)("text", level="line")


def test_fractions_are_of_the_normalised_text():
    raw = RawCorpus("mine", {"all": "a--------b" * 100})
    corpus = prepare_corpus(raw, normalize="letters", valid_fraction=0.25, test_fraction=0.25)
    assert [len(part) for part in corpus[1:]] == [150, 75, 75]


def test_own_splits_ignore_the_fractions():
    raw = RawCorpus("mine", {"train": "A b", "valid": "C", "test": "D?"})
    corpus = prepare_corpus(raw, normalize="letters", valid_fraction=0.9, test_fraction=0.9)
    assert corpus == ("mine", "a b", "c", "d ")


def test_whole_words_reach_the_split():
    raw = RawCorpus("mine", {"all": "abcdefghij " * 9})
    assert prepare_corpus(raw, valid_fraction=0.3, test_fraction=0.3, whole_words=True).valid[:3] == "abc"


def test_time_machine_is_as_expected(data_dir):
    raw = read_corpus("time_machine", data_dir=data_dir)
    corpus = prepare_corpus(raw, normalize="letters")
    text = corpus.train + corpus.valid + corpus.test
    assert (len(text), len(set(text))) == (173_428, 27)
    assert text.startswith("the time machine by h g wells i the time traveller")


# Round trips


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_survives(bpe, text):
    for vocab in (Vocab("byte"), build_vocab(text, level="char"), bpe):
        ids = vocab.encode(text)
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert vocab.decode(ids) == text


@given(text=st.text())
def test_any_text_survives(bpe, text):
    for vocab in (Vocab("byte"), build_vocab(text, level="char"), bpe):
        assert vocab.decode(vocab.encode(text)) == text
        assert vocab.unknown(text) == ()


@given(st.lists(st.lists(st.text("abc", min_size=1), max_size=5), max_size=5))
def test_words_survive_between_single_spaces(lines):
    text = "".join(" ".join(line) + "\n" for line in lines)
    vocab = build_vocab(text, level="word")
    assert vocab.decode(vocab.encode(text)) == text


@given(st.text(), st.text())
def test_characters_match_a_dictionary(train, text):
    vocab = build_vocab(train, level="char")
    ids = {symbol: i for i, symbol in enumerate(vocab.tokens)}
    assert vocab.encode(text).tolist() == [ids.get(symbol, 0) for symbol in text]
    assert vocab.unknown(text) == tuple(symbol for symbol in dict.fromkeys(text) if symbol not in train)


def test_generated_bytes_may_be_no_utf8():
    assert Vocab("byte").decode([0x68, 0xFF, 0x69]) == "h\ufffdi"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [np.ndarray.tolist, np.uint16, np.int64, jnp.asarray])
def test_any_integer_array_decodes(level, kind):
    vocab = vocab_of(level)
    text = "the time machine\n"
    assert vocab.decode(kind(vocab.encode(text))) == text


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("wrong", [[-1], [100_000], [0.5], [[0, 1]], [True]])
def test_ids_that_are_none(level, wrong):
    vocab = vocab_of(level)
    for method in (vocab.decode, vocab.token_strings):
        with pytest.raises(ValueError, match=r"^expected (integer )?ids [^\n]*$"):
            method(wrong)
    assert vocab.decode([]) == "" and vocab.token_strings([]) == []


# What a vocabulary holds


def test_words_by_count_then_alphabet():
    vocab = build_vocab("b a b\nc a <unk>\n\nd\n", level="word")
    assert vocab.tokens == (UNK, EOS, "a", "b", "c", "d")
    assert vocab.encode("a <unk>\n\nq d").tolist() == [2, 0, 1, 1, 0, 5, 1]
    assert vocab.unknown("q a p q <unk>") == ("q", "p")
    assert vocab.decode([2, 3, 1, 1, 0, 1, 4]) == "a b\n\n<unk>\nc"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("\n", [EOS]),
        ("a", ["a", EOS]),
        ("a\n", ["a", EOS]),
        (" a  b \n\nc\r\n", ["a", "b", EOS, EOS, "c", EOS]),
    ],
)
def test_one_eos_a_line(text, words):
    assert split_words(text) == words


def test_rare_symbols_become_unknown():
    assert build_vocab("aab", level="char", min_count=2).tokens == (UNK, "a")
    assert build_vocab("a a b\n", level="word", min_count=2).tokens == (UNK, "a", EOS)


def test_characters_by_code_point():
    vocab = build_vocab("🐍éba\n", level="char")
    assert vocab.tokens == (UNK, "\n", "a", "b", "é", "🐍")
    assert vocab.encode("🐍\U0010ffffcb").tolist() == [5, 0, 0, 3]


def test_len_is_the_number_of_symbols():
    assert len(vocab_of("byte")) == 256
    assert len(vocab_of("char")) == len(set(VERSE)) + 1
    assert len(vocab_of("word")) == len({*VERSE.split(), UNK, EOS})
    assert len(vocab_of("bpe")) == 270


def test_bpe_training_is_repeatable_and_bounded():
    first, second = (build_vocab(VERSE * 20, level="bpe", bpe_vocab_size=280) for _ in range(2))
    assert first == second and len(first) == 280
    assert len(first.encode(VERSE)) < 0.6 * len(VERSE)
    with pytest.raises(ValueError, match="at least 256, got 255"):
        build_vocab(VERSE, level="bpe", bpe_vocab_size=255)


@pytest.mark.parametrize("level", LEVELS)
def test_normalisation_is_part_of_the_vocabulary(level):
    vocab = build_vocab(VERSE, level=level, normalize="letters", bpe_vocab_size=270)
    assert vocab.encode("The TIME,\nmachine?").tolist() == vocab.encode("the time machine ").tolist()
    assert vocab.unknown("The!") == ()


def test_ptb_is_as_expected(data_dir):
    corpus = prepare_corpus(read_corpus("ptb", data_dir=data_dir))
    vocab = build_vocab(corpus.train, level="word")
    assert len(vocab) == 10_000 and {UNK, EOS} <= set(vocab.tokens)
    assert [len(vocab.encode(part)) for part in corpus[1:]] == [929_589, 73_760, 82_430]
    assert vocab.unknown(corpus.valid) == vocab.unknown(corpus.test) == ()
    # Each line of the files starts and ends with a space.
    lines = [f" {line} " for line in vocab.decode(vocab.encode(corpus.test)).split("\n")[:-1]]
    assert lines == corpus.test.split("\n")[:-1]


def test_a_megabyte_of_characters_encodes_fast():
    text = (VERSE * 20_000)[:1_000_000]
    vocab = build_vocab(text, level="char")
    vocab.encode("warm")
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        vocab.encode(text)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


# Listings, equality and JSON


def test_token_strings():
    assert Vocab("byte").token_strings([*b"a '\\\n\xc3\x7f"]) == [
        "a",
        " ",
        "'",
        "\\",
        "\\x0a",
        "\\xc3",
        "\\x7f",
    ]
    char = build_vocab("é\n🐍", level="char")
    assert char.token_strings([0, 1, 2, 3]) == [UNK, "\\n", "é", "🐍"]
    assert vocab_of("word").token_strings([0]) == [UNK]


def test_token_strings_of_bpe(bpe):
    ids = bpe.encode(VERSE)
    assert "".join(bpe.token_strings(ids)) == VERSE.replace(" ", "Ġ").replace("\n", "Ċ")


@pytest.mark.parametrize("level", LEVELS)
def test_json_gives_an_equal_vocabulary(level):
    vocab = build_vocab(VERSE + "é🐍\x00\u2028", level=level, bpe_vocab_size=270)
    text = vocab.to_json()
    again = Vocab.from_json(text)
    assert text.isascii() and text.count("\n") == 1
    assert again == vocab and hash(again) == hash(vocab) and again.to_json() == text
    assert again.encode(VERSE).tolist() == vocab.encode(VERSE).tolist()
    assert again != build_vocab(VERSE, level=level, normalize="letters", bpe_vocab_size=270)


@given(st.sampled_from(LEVELS), st.data())
def test_truncated_json_is_refused(level, data):
    text = vocab_of(level).to_json().rstrip("\n")
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError, match=r"^expected a vocabulary written by Vocab.to_json[^\n]*$"):
        Vocab.from_json(text[:cut])


@pytest.mark.parametrize(
    "change",
    [
        {"level": "syllable"},
        {"level": ["char"]},
        {"normalize": "upper"},
        {"tokens": "abc"},
        {"tokens": ["<unk>", 1]},
        {"tokens": ["a", "b"]},
        {"tokens": ["<unk>", "a", "a"]},
        {"tokens": ["<unk>", "ab"]},
        {"bpe_json": "{}"},
        {"level": "bpe", "tokens": []},
        {"size": 3},
    ],
)
def test_damaged_json_is_refused(change):
    fields = json.loads(build_vocab("ab", level="char").to_json()) | change
    with pytest.raises(ValueError, match=r"^expected a vocabulary written by Vocab.to_json[^\n]*$"):
        Vocab.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"level": "byte"}'])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="expected a vocabulary"):
        Vocab.from_json(text)
