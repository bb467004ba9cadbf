"""Token stores: the same ids as of the whole text, whatever its pieces; made whole or not at all."""

import bz2
import errno
import gzip
import json
import lzma
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.config.text import TextConfig
from lmseq.data import store_writer
from lmseq.data.corpora import SPLITS, RawCorpus
from lmseq.data.documents import Source, find_source, read_documents
from lmseq.data.pieces import END, behind_character, cut_behind
from lmseq.data.store import is_store, open_store
from lmseq.data.store_writer import prepare_store, write_store
from lmseq.data.texts import Texts, load_texts, stored_config
from lmseq.data.tokens import Vocab, build_vocab, prepare_corpus

# Blanks of all kinds, the word <unk>, letters of one to four bytes, capitals and apostrophes.
WORDS = st.sampled_from(
    [*"aAb,'\n\r\t \0\v\f\x1c", "  ", "\n\n", "<unk>", "it's", "né", "\u3000", "語", "🙂", "\u00a0"]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=60).map("".join)
PLAIN = TextConfig()
LEVELS = ("byte", "char", "word", "bpe")


def texts_of(raw: RawCorpus, config: TextConfig) -> Texts:
    """As `load_texts` has them, of a text in memory."""
    corpus = prepare_corpus(
        raw,
        normalize=config.normalize,
        valid_fraction=config.valid_fraction,
        test_fraction=config.test_fraction,
        whole_words=config.level == "word",
    )
    vocab = build_vocab(
        corpus.train,
        level=config.level,
        normalize=config.normalize,
        min_count=config.min_count,
        bpe_vocab_size=config.bpe_vocab_size,
    )
    return Texts(corpus, vocab, {split: vocab.encode(getattr(corpus, split)) for split in SPLITS})


def cut(text: str, size: int) -> list[bytes]:
    """Pieces of about so many bytes."""
    data = text.encode()
    return list(cut_behind((data[i : i + size] for i in range(0, len(data), size)), behind_character))


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25)
@given(
    text=TEXTS,
    size=st.integers(1, 50),
    normalize=st.sampled_from(["none", "letters"]),
    fractions=st.tuples(st.sampled_from([0.0, 0.1, 0.34]), st.sampled_from([0.0, 0.2])),
    min_count=st.integers(1, 2),
    in_parts=st.booleans(),
)
def test_a_store_is_the_text(tmp_path_factory, level, text, size, normalize, fractions, min_count, in_parts):
    config = TextConfig("x", level, normalize, *fractions, bpe_vocab_size=260)
    if level in ("char", "word"):
        config = TextConfig("x", level, normalize, *fractions, min_count=min_count)
    parts = (
        dict(zip(SPLITS, (text, text[: len(text) // 2], text[::-1]), strict=True))
        if in_parts
        else {"all": text}
    )
    out = tmp_path_factory.mktemp("stores") / "store"
    write = partial(write_store, out, "x", {part: partial(cut, t, size) for part, t in parts.items()}, config)
    try:
        expected = texts_of(RawCorpus("x", parts), config)
    except ValueError as error:
        with pytest.raises(ValueError) as found:
            write()
        assert str(found.value) == str(error) and not list(out.parent.iterdir())
        return
    write()
    store = Texts(*open_store(out))
    assert store.vocab == expected.vocab
    for split in SPLITS:
        np.testing.assert_array_equal(store.ids[split], expected.ids[split])
        assert store.num_unknown(split) == expected.num_unknown(split)
    assert store.facts() == expected.facts()
    assert store.ids["train"].dtype == (np.uint16 if len(store.vocab) > 256 else np.uint8)


def make(folder, source: Source, config: TextConfig = PLAIN, **more) -> Texts:
    prepare_store(folder / "store", source, config, **more)
    return Texts(*open_store(folder / "store"))


def write_files(folder, **files: str):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text.encode())
    return str(folder)


BOOK = "the tide is low, and we wait\nnobody asks why the ferry is late\n" * 20


@pytest.mark.parametrize("level", LEVELS)
def test_files_are_read_as_load_texts_reads_them(tmp_path, level):
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbf" + BOOK.encode())
    config = TextConfig(str(tmp_path / "book.txt"), level, bpe_vocab_size=270)
    store, texts = make(tmp_path, find_source(config.corpus), config), load_texts(config)
    assert store.facts() == texts.facts() and store.vocab == texts.vocab
    assert store.first_words() == texts.first_words()
    # A store knows its settings, and is loaded by them.
    stored = stored_config(str(tmp_path / "store"))
    assert load_texts(stored).facts() == texts.facts()
    with pytest.raises(ValueError, match=f"made with --level={level} .*other settings: leave them out"):
        load_texts(TextConfig(stored.corpus, "byte" if level == "char" else "char", min_count=1))


def test_a_folder_of_parts_and_a_folder_of_files(tmp_path):
    parts = write_files(tmp_path / "parts", train_txt="abc\n", valid_jsonl='{"text": "ab"}\n', test_txt="c")
    store = make(tmp_path, find_source(parts))
    assert [store.vocab.decode(store.ids[split]) for split in SPLITS] == ["abc\n", "ab", "c"]
    files = find_source(write_files(tmp_path / "files", b_txt="1", a_txt="2\n", c_txt="3"))
    assert b"".join(read_documents(files.parts["all"])) == b"2\n1\n3"
    assert find_source(f"{tmp_path}/files/[ab].txt").parts["all"] == files.parts["all"][:2]


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress])
def test_lines_of_json(tmp_path, pack):
    lines = [{"body": "né"}, {"body": ""}, {"body": "b\n", "id": 1}, {"body": "c"}]
    path = tmp_path / ("x.jsonl" if pack(b"") == b"" else "x.jsonl.gz")
    path.write_bytes(pack("\n\n".join(map(json.dumps, lines)).encode()))
    told = []
    read = partial(read_documents, [path], text_field="body", progress=told.append)
    assert b"".join(read()).decode() == "né\nb\nc"
    assert sum(told) <= path.stat().st_size
    ends = [b"\0" if piece is END else piece for piece in read(has_ends=True)]
    assert b"".join(ends).decode() == "né\0\0b\n\0c\0"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("byte", "ab<eos>c\n<eos>"),
        ("char", "ab<eos>c\n<eos>"),
        ("bpe", "ab<eos>c\n<eos>"),
        ("word", "ab\nc\n"),
    ],
)
def test_documents_end(tmp_path, level, shown):
    source = find_source(write_files(tmp_path / "files", a_txt="ab", b_txt="c\n"))
    config = TextConfig("x", level, valid_fraction=0.0, test_fraction=0.0, bpe_vocab_size=256)
    if level == "word":
        config = TextConfig("x", level, valid_fraction=0.0, test_fraction=0.0)
    store = make(tmp_path, source, config, end_documents=True)
    assert store.vocab.decode(store.ids["train"]) == shown
    assert np.count_nonzero(store.ids["train"] == store.vocab.end_id) == 2
    assert Vocab.from_json(store.vocab.to_json()) == store.vocab
    assert store.num_chars("train") == 4 and "<eos>" in store.vocab.token_strings(store.ids["train"])
    assert store.vocab.end_id not in store.vocab.encode("a b<c") or level == "word"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected files of text in folder .*, it has none"),
        ({"train_txt": "a"}, "expected one file of the valid part in folder .*, got none"),
        ({"a_txt": ""}, "expected text in a.txt, got nothing"),
        ({"a_jsonl": "{"}, "expected JSON in line 1 of .*a.jsonl"),
        ({"a_jsonl": '{"b": 1, "c": 2}'}, "text at 'text' in line 1 of .*, got 'b, c': name the field"),
        ({"a_jsonl": "[]"}, "text at 'text' in line 1 of .*, got 'no object'"),
        ({"a_jsonl": r'{"text": "\ud800"}'}, "line 1 of .* has a character that is none"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, files, message):
    folder = write_files(tmp_path / "files", **files)
    with pytest.raises(ValueError, match=message):
        make(tmp_path, find_source(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def zst(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zst])
def test_packed_texts_are_known_by_their_first_bytes(tmp_path, pack):
    """Whatever their names end with; a text that is cut short is damaged, not short."""
    text, path = "the tide is low\n" * 9000, tmp_path / "book.txt"
    packed = pack(text.encode())
    path.write_bytes(packed)
    assert b"".join(read_documents([path])).decode() == text
    path.write_bytes(packed + packed)
    assert b"".join(read_documents([path])).decode() == 2 * text
    path.write_bytes(packed[:-5])
    with pytest.raises(ValueError, match=r"book.txt is damaged \(.*\): restore it"):
        list(read_documents([path]))
    path.with_name("book.gz").write_text("plain")
    assert list(read_documents([path.with_name("book.gz")])) == [b"plain"]


def test_a_packing_that_nothing_here_unpacks(tmp_path, monkeypatch):
    for name in ("zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd and more")
    with pytest.raises(ValueError, match="takes the package zstandard: pip install zstandard"):
        list(read_documents([tmp_path / "a.zst"]))


def test_bytes_that_are_not_utf8_have_a_place(tmp_path):
    (tmp_path / "latin.txt").write_bytes("né".encode() + b"caf\xe9 au lait")
    with pytest.raises(ValueError, match="got byte 0xe9 at byte offset 6: convert the file to UTF-8"):
        make(tmp_path, find_source(str(tmp_path / "latin.txt")))


def test_a_pattern_that_nothing_matches_and_a_pipe(tmp_path):
    with pytest.raises(ValueError, match=r"nothing is there: .*none"):
        find_source(f"{tmp_path}/*.none")
    with pytest.raises(ValueError, match="files that can be read twice"):
        find_source("/dev/null")


# Whole or not at all


def test_a_disk_that_fills_leaves_nothing(tmp_path, monkeypatch):
    source = find_source(write_files(tmp_path / "files", a_txt=BOOK))

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_writer, "_write_split", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path, source)
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_what_a_killed_process_left_is_removed_and_what_stands_is_kept(tmp_path):
    source = find_source(write_files(tmp_path / "files", a_txt=BOOK))
    (tmp_path / ".store.999999999.tmp").mkdir()
    (tmp_path / ".store.1.tmp").mkdir()  # of a process that lives
    make(tmp_path, source)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.1.tmp", "files", "store"]
    with pytest.raises(ValueError, match=r"a folder that is not there yet, .*store exists: name another"):
        make(tmp_path, source)


def test_a_store_that_was_damaged(tmp_path):
    make(tmp_path, find_source(write_files(tmp_path / "files", a_txt=BOOK)))
    store, vocab = tmp_path / "store", (tmp_path / "store" / "vocab.json").read_text()
    (store / "vocab.json").write_text(vocab.replace("a", "x"))
    with pytest.raises(ValueError, match=r"vocab.json is not the vocabulary that the store was made with"):
        open_store(store)
    (store / "vocab.json").write_text(vocab)
    with (store / "train.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(
        ValueError, match=r"expected 1,134 bytes in .*train.bin, got 100: make the store again"
    ):
        open_store(store)
    for text, message in (
        ("[]", "is damaged"),
        ('{"version": 2, "vocab_sha256": ""}', "version 1 in .*, got 2"),
    ):
        (store / "store.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            open_store(store)


# nanoGPT's files


@pytest.fixture
def nano(tmp_path):
    for name, size in (("train", 500), ("val", 60)):
        (np.arange(size) % 300).astype("<u2").tofile(tmp_path / f"{name}.bin")
    (tmp_path / "meta.pkl").write_bytes(b"is not read")
    return tmp_path


def test_files_of_nanogpt_are_ids(nano):
    assert is_store(nano)
    store = load_texts(stored_config(str(nano)))
    assert len(store.vocab) == 300 and store.ids["valid"].tolist() == list(range(60))
    assert store.ids["train"].dtype == np.uint16 and not store.ids["test"].size
    assert store.vocab.decode([5, 299]) == "5 299" and store.vocab.encode("5 299").tolist() == [5, 299]
    assert Vocab.from_json(store.vocab.to_json()) == store.vocab
    with pytest.raises(ValueError, match=r"numbers from 0 to 299 in --prompt, got 'the': .* bare ids"):
        store.vocab.encode("the", name="--prompt")
    with (nano / "val.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"expected ids of 2 bytes in .*val.bin, got 121 bytes"):
        open_store(nano)
