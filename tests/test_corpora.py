"""Corpora are found, checked, fetched and cut as promised, and every mistake gets one clear line."""

import hashlib
import http.server
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data.corpora import CORPORA, SPLITS, CorpusFile, CorpusInfo, read_corpus, read_text, split_text

SONNET = b"Shall I compare thee to a summer's day?\r\nThou art more lovely and more temperate:\r\n"


def refusal(function, *args, **kwargs) -> str:
    """The message of the ValueError that a call raises, which must be a single line."""
    with pytest.raises(ValueError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.fixture
def sonnet(monkeypatch):
    """A known corpus of one file, whose address can be chosen; nothing answers at the one it has."""

    def register(url: str = "http://127.0.0.1:9/sonnet.txt", content: bytes = SONNET) -> CorpusFile:
        file = CorpusFile("poems/sonnet.txt", url, hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(CORPORA, "sonnet", CorpusInfo("sonnet", "public domain", "", "", {"all": file}))
        return file

    # A proxy would stand between the test and its own machine.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return register


@pytest.fixture
def server():
    """The address of an HTTP server that gives the sonnet for any path, and the paths asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(SONNET)))
            self.end_headers()
            self.wfile.write(SONNET)

        def log_message(self, *_):
            asked.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/sonnet.txt", asked
        running.shutdown()
        thread.join()


# The table


def test_the_table_is_whole():
    for name, info in CORPORA.items():
        assert info.name == name and info.licence and info.source and info.expected
        assert set(info.files) in (set(), {"all"}, set(SPLITS))
        for file in info.files.values():
            assert file.url.startswith("https://") and len(bytes.fromhex(file.sha256)) == 32


def test_tiny_shakespeare_is_as_expected(data_dir):
    raw = read_corpus("tiny_shakespeare", data_dir=data_dir)
    text = raw.parts["all"]
    assert (len(text), len(set(text))) == (1_115_394, 65)
    assert f"{len(text):,} characters, {len(set(text))} symbols" in CORPORA["tiny_shakespeare"].expected
    parts = split_text(text, 0.1, 0.0)
    assert [len(parts[split]) for split in SPLITS] == [1_003_854, 111_540, 0]


def test_ptb_is_as_expected(data_dir):
    parts = read_corpus("ptb", data_dir=data_dir).parts
    counts = [len(parts[split].replace("\n", " <eos> ").split()) for split in SPLITS]
    assert counts == [929_589, 73_760, 82_430]
    assert " / ".join(f"{count:,}" for count in counts) in CORPORA["ptb"].expected
    assert len({"<eos>", *parts["train"].split()}) == 10_000


def test_python_docs_need_nothing():
    raw = read_corpus("python_docs")
    assert raw == read_corpus("python_docs") and list(raw.parts) == ["all"]
    assert 400_000 < len(raw.parts["all"]) < 600_000
    assert '"assert"' in raw.parts["all"]


# Paths


def test_file_keeps_its_bytes_but_for_a_byte_order_mark(tmp_path):
    content = b"one\r\ntwo\rthree\n\xef\xbb\xbf\x00 \xf0\x9f\x90\x8d"
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbf" + content)
    for path in (tmp_path / "mine.txt", str(tmp_path / "mine.txt")):
        raw = read_corpus(path)
        assert raw.name == "mine.txt" and raw.parts["all"].encode() == content


def test_folder_with_its_own_splits(tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text(f"this is {split}")
    raw = read_corpus(str(tmp_path))
    assert raw == (tmp_path.name, {split: f"this is {split}" for split in SPLITS})


def test_folder_without_a_split(tmp_path):
    (tmp_path / "train.txt").write_text("words")
    assert "missing valid.txt, test.txt" in refusal(read_corpus, str(tmp_path))


def test_unknown_name_lists_the_known_and_the_nearest():
    message = refusal(read_corpus, "tiny_shakespear")
    assert all(name in message for name in CORPORA)
    assert message.endswith("did you mean tiny_shakespeare?")
    assert "did you mean" not in refusal(read_corpus, "/no/such/book.txt")
    assert "'xxxx" in refusal(read_corpus, "x" * 5000)


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("naïve".encode("latin-1"))
    message = refusal(read_text, path)
    assert str(path) in message and "0xef at byte offset 2" in message


def test_text_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.txt").touch()
    assert "empty.txt, got an empty file" in refusal(read_corpus, tmp_path / "empty.txt")
    (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf")
    assert "empty.txt, got an empty file" in refusal(read_text, tmp_path / "empty.txt")
    assert "No such file" in refusal(read_text, tmp_path / "absent.txt")
    assert "Is a directory" in refusal(read_text, tmp_path)


# Known corpora: a folder, the cache, the network


def test_data_dir_goes_before_the_cache(tmp_path, sonnet):
    file = sonnet()
    data, cache = tmp_path / "data", tmp_path / "cache"
    for folder in (cache, data):
        (folder / "poems").mkdir(parents=True)
        (folder / file.filename).write_bytes(SONNET)
        assert read_corpus("sonnet", data_dir=data, cache_dir=cache).parts == {"all": SONNET.decode()}
    (cache / file.filename).write_bytes(b"never read")
    assert read_corpus("sonnet", data_dir=data, cache_dir=cache).parts == {"all": SONNET.decode()}


@pytest.mark.parametrize("folder", ["data_dir", "cache_dir"])
def test_wrong_digest_names_file_expected_and_found(tmp_path, sonnet, folder):
    file = sonnet()
    path = tmp_path / file.filename
    path.parent.mkdir()
    path.write_bytes(SONNET + b" ")
    message = refusal(read_corpus, "sonnet", **{folder: tmp_path})
    found = hashlib.sha256(SONNET + b" ").hexdigest()
    assert str(path) in message and file.sha256 in message and found in message


def test_download_once_then_the_cache(tmp_path, sonnet, server):
    url, asked = server
    file = sonnet(url)
    for _ in range(2):
        raw = read_corpus("sonnet", data_dir=tmp_path / "none", cache_dir=tmp_path / "cache")
        assert raw == ("sonnet", {"all": SONNET.decode()})
    assert asked == ["/sonnet.txt"]
    assert (tmp_path / "cache" / file.filename).read_bytes() == SONNET


def test_download_of_something_else_leaves_nothing(tmp_path, sonnet, server):
    file = sonnet(server[0], content=b"what was published once")
    message = refusal(read_corpus, "sonnet", cache_dir=tmp_path)
    assert "could not be downloaded" in message and file.url in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_network_names_both_ways_out(tmp_path, sonnet):
    file = sonnet()
    message = refusal(read_corpus, "sonnet", cache_dir=tmp_path)
    assert "poems/sonnet.txt could not be downloaded (ConnectionError" in message
    assert "set LMSEQ_DATA_DIR to a folder that has poems/sonnet.txt" in message
    assert message.endswith(f"or allow the download from {file.url}")


def test_no_cache_means_no_download(tmp_path, sonnet, server):
    url, asked = server
    sonnet(url)
    message = refusal(read_corpus, "sonnet", data_dir=tmp_path)
    assert "downloading was not asked for" in message and "LMSEQ_DATA_DIR" in message and url in message
    assert asked == []


# Splits

hundredths = st.tuples(st.integers(0, 99), st.integers(0, 99)).filter(lambda pair: sum(pair) < 100)


@given(length=st.integers(100, 3000), percents=hundredths)
def test_lengths_are_exact_in_decimals(length, percents):
    valid, test = percents
    text = "".join(chr(0x4E00 + i) for i in range(length))
    parts = split_text(text, valid / 100, test / 100)
    assert "".join(parts[split] for split in SPLITS) == text
    assert len(parts["train"]) == (100 - valid - test) * length // 100
    assert len(parts["train"]) + len(parts["valid"]) == (100 - test) * length // 100
    assert bool(parts["valid"]) == (valid > 0) and bool(parts["test"]) == (test > 0)


@given(
    words=st.lists(st.text("abc", min_size=1, max_size=9), min_size=200, max_size=250),
    gap=st.sampled_from(" \n"),
)
def test_whole_words_cuts_no_word(words, gap):
    text = gap.join(words)
    loose = split_text(text, 0.2, 0.1)
    whole = split_text(text, 0.2, 0.1, whole_words=True)
    assert "".join(whole[split] for split in SPLITS) == text
    assert [word for split in SPLITS for word in whole[split].split()] == words
    # Forward, and no further than one word and the gap after it.
    assert 0 <= len(whole["train"]) - len(loose["train"]) <= 10


@pytest.mark.parametrize(
    "fractions", [(-0.1, 0.1), (0.1, -0.1), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (float("nan"), 0.1)]
)
def test_fractions_that_make_no_sense(fractions):
    message = refusal(split_text, "some text", *fractions)
    assert f"got {fractions[0]} and {fractions[1]}" in message


def test_text_too_short_for_its_parts():
    assert "valid part, got 100 characters" in refusal(split_text, "x" * 100, 0.005, 0.005)
    assert "train part" in refusal(split_text, "a", 0.5, 0.0)
    assert "valid part" in refusal(split_text, "one_long_word", 0.5, 0.0, whole_words=True)
    assert split_text("abc", 0.0, 0.0) == {"train": "abc", "valid": "", "test": ""}
