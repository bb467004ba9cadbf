"""ARPA files: any well-formed one is read, any other refused with its line."""

import bz2
import gzip
import lzma
import math
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmseq.ngram import arpa, arpa_lines, arpa_routines, native, smoothing
from lmseq.ngram.arpa import read_arpa, write_arpa
from lmseq.ngram.backoff import score_words
from lmseq.ngram.counts import BOS_ID, EOS_ID, count_ngrams
from tests.ngrams import V, dictionaries, marked, sentences

WORDS = ["a", "b", "é"]
GOLDEN = Path(__file__).parent / "golden" / "small.arpa"
SMALL = """\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.5\t<unk>\t0
0\t<s>\t-0.25
-0.5\t</s>\t0
-0.75\ta\t-0.125
-1\tb\t0

\\2-grams:
-0.25\t<s> a\t-0.5
-0.5\ta b\t0
-0.125\tb </s>\t0

\\3-grams:
-0.0625\t<s> a b

\\end\\
"""


@pytest.fixture(scope="module", params=["numpy", "native"], autouse=True)
def backend(request):
    """All that follows, by NumPy and then by compiled routines."""
    if request.param == "native":
        native.load(request.getfixturevalue("counts_library"))
    yield request.param
    native._Loaded.library = None


def model_of(texts):
    order = min(3, max(map(len, texts)) + 2)
    return smoothing.modified_kneser_ney(count_ngrams(marked(texts), V, order), discount_fallback=True).tables


def read(tmp_path, text: str | bytes, name: str = "m.arpa"):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_arpa(tmp_path / name)


def named(model) -> list[dict[tuple[str, ...], tuple[float, float]]]:
    """Entries by their words."""
    names = [*arpa.MARKS, *model.words]
    return [
        {tuple(names[w] for w in gram): pair for gram, pair in entries.items()}
        for entries in dictionaries(model.tables)
    ]


@settings(max_examples=20)
@given(sentences, st.booleans())
def test_round_trip_to_eight_digits(tmp_path_factory, texts, zipped):
    path = tmp_path_factory.mktemp("arpa") / ("m.arpa.gz" if zipped else "m.arpa")
    tables = model_of(texts)
    write_arpa(path, tables, WORDS)
    found = read_arpa(path)
    assert found.words == WORDS
    for ours, theirs in zip(dictionaries(tables), dictionaries(found.tables), strict=True):
        assert ours.keys() == theirs.keys()
        for gram, pair in ours.items():
            np.testing.assert_allclose(theirs[gram], pair, rtol=1e-7, atol=1e-12)
    again = path.with_name("again.arpa")
    write_arpa(again, found.tables, found.words)
    text = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    assert again.read_bytes() == text


def test_by_hand(tmp_path):
    model = read(tmp_path, SMALL)
    assert model.words == ["a", "b"]
    a, b = 3, 4
    stream = np.array([BOS_ID, a, b, b, EOS_ID])
    # <s> a; <s> a b; b after `a b`, which is in the table with weight 0, and `b b` is not; b </s>.
    expected = [0.0, -0.25, -0.0625, -1.0, -0.125]
    np.testing.assert_allclose(score_words(model.tables, stream) / math.log(10), expected, atol=1e-12)


def test_lines_in_any_order_with_any_blanks(tmp_path):
    lines = SMALL.split("\n")
    lines[6:11] = reversed(lines[6:11])
    lines[13:16] = reversed(lines[13:16])
    shuffled = "\n".join(lines).replace("\t", "  ").replace("-0.5  a b  0", " -0.5 \t a   b ")
    expected = named(read(tmp_path, SMALL))
    for text in (
        shuffled,
        shuffled.replace("\n", "\r\n"),
        SMALL.removesuffix("\n"),
        "\n" + SMALL,
        "\ufeff" + SMALL,
        "# of another tool\n\nhow it was made\n" + SMALL,
        SMALL.replace("-0.0625\t<s> a b", "-0.0625\t<s> a b\t-0.0"),
        SMALL.replace("<unk>", "<UNK>"),
        SMALL.replace("\n\n", "\n \n\n").replace("-grams:\n", "-grams:\n\n"),
    ):
        found = named(read(tmp_path, text))
        assert [sorted(entries.items()) for entries in found] == [sorted(e.items()) for e in expected]


def test_what_a_file_leaves_out(tmp_path):
    """Without <unk> an unknown word is impossible; -99 and -inf are read as written."""
    text = SMALL.replace("-1.5\t<unk>\t0\n", "").replace("1=5", "1=4").replace("0\t<s>", "-99\t<s>")
    model = read(tmp_path, text)
    assert model.tables.orders[0].log_prob[:2].tolist() == [-math.inf, -math.inf]
    assert read(tmp_path, SMALL.replace("-1\tb", "-99\tb")).tables.orders[0].log_prob[4] == -math.inf
    assert read(tmp_path, SMALL.replace("-1\tb", "-inf\tb")).tables.orders[0].log_prob[4] == -math.inf


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("\\data\\", "data", 1, "begins with it"),
        ("ngram 2=3", "ngram 3=3", 3, "expected ngram 2=COUNT"),
        ("ngram 2=3", "ngram 2=x", 3, "expected ngram 2=COUNT"),
        ("ngram 2=3", "ngram 2=4", 16, "expected 4 2-grams as said above, got 3"),
        ("ngram 2=3", "ngram 2=2", 16, "expected 2 2-grams as said above, got 3"),
        ("\\2-grams:", "\\3-grams:", 13, "expected \\\\2-grams:"),
        ("\\end\\", "\\4-grams:", 21, "expected \\\\end"),
        ("\\end\\", "", 21, "truncated"),
        ("-0.5\ta b", "0.5\ta b", 15, "at most 0"),
        ("-0.5\ta b", "nan\ta b", 15, "at most 0"),
        ("-0.5\ta b", "-0,5\ta b", 15, "expected a number, got "),
        ("-0.5\ta b\t0", "-0.5\ta", 15, "2 words and a back-off, got"),
        ("-0.0625\t<s> a b", "-0.0625\t<s> a b\t-0.5", 19, "3 words and no back-off, got"),
        ("-0.0625\t<s> a b", "-0.0625\t<s> a b\tb", 19, "3 words and no back-off, got"),
        ("-0.5\ta b", "-0.5\ta c", 15, "'c' is not among the 1-grams"),
        ("-0.5\ta b", "-0.25\t<s> a", 15, "this 2-gram is there twice"),
        ("-0.0625\t<s> a b", "-0.0625\ta a b", 19, "the context of this 3-gram is not in the file"),
        ("-1\tb\t0", "-1\tb\tinf", 11, "a number as back-off"),
        ("-0.5\ta b", "-1_5\ta b", 15, "expected a number, got "),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path, old, new, line, what):
    with pytest.raises(ValueError, match=f"line {line}: .*{what}"):
        read(tmp_path, SMALL.replace(old, new, 1))


def test_words_that_are_not_utf8(tmp_path):
    with pytest.raises(ValueError, match="words in UTF-8"):
        read(tmp_path, SMALL.encode().replace(b"b", b"\xff"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_are_known_by_their_first_bytes(tmp_path, pack):
    """Whatever they are called, and from a pipe, which gives its bytes once and in small parts."""
    data, expected = pack(SMALL.encode()), named(read(tmp_path, SMALL))
    for name in ("packed.arpa", "packed.gz"):
        assert named(read(tmp_path, data, name)) == expected
    os.mkfifo(tmp_path / "pipe")

    def write():
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            for place in range(0, len(data), 3):
                pipe.write(data[place : place + 3])

    writer = threading.Thread(target=write)
    writer.start()
    assert named(read_arpa(tmp_path / "pipe")) == expected
    writer.join()


def test_capitals_are_the_unknown_word_too(tmp_path):
    """As to the reference tool, which maps both to one number: by itself, and not beside the other."""
    unknown = read(tmp_path, SMALL.replace("<unk>", "<UNK>")).tables.orders[0].log_prob[0]
    assert unknown == pytest.approx(-1.5 * math.log(10))
    both = SMALL.replace("1=5", "1=6").replace("-1\tb", "-2\t<UNK>\t0\n-1\tb")
    with pytest.raises(ValueError, match="line 11: this 1-gram is there twice"):
        read(tmp_path, both)


@pytest.mark.parametrize("mark", ["<s>", "</s>"])
def test_without_marks_no_text_has_a_probability(tmp_path, mark):
    """The reference tool refuses such files too, unless asked not to."""
    whole = "\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t<s>\n-1\t</s>\n\n\\end\\\n"
    assert read(tmp_path, whole).words == []
    lacking = whole.replace("1=2", "1=1").replace(f"-1\t{mark}\n", "")
    with pytest.raises(ValueError, match=f"line 5: expected {mark} among the 1-grams"):
        read(tmp_path, lacking)


def test_what_is_no_arpa_file_is_not_read_to_its_end(tmp_path):
    """A header of comments has a bound, and so has a line; of 2**40 bytes none is read twice."""
    for start, what in ((b"", r"within its first 1 MiB"), (b"\\data\\\n", "a line of more than 64 MiB")):
        with open(tmp_path / "large", "wb") as file:
            file.write(start)
            file.truncate(1 << 40)
        with pytest.raises(ValueError, match=what):
            read_arpa(tmp_path / "large")


def test_a_damaged_gzip_file(tmp_path):
    data = gzip.compress(GOLDEN.read_bytes())
    for broken in (data[: len(data) // 2], data[:40] + b"\0\0\0\0" + data[44:], b"no gzip"):
        with pytest.raises(ValueError, match=r"line \d+: .*(cannot be read further|begins with)"):
            read(tmp_path, broken, "m.arpa.gz")


def test_a_model_larger_than_memory(tmp_path):
    (tmp_path / "m.arpa").write_text(SMALL.replace("ngram 3=1", "ngram 3=99999999999"))
    with pytest.raises(ValueError, match=r"99,999,999,999|100,000,000,007.*prune the model"):
        read_arpa(tmp_path / "m.arpa", memory=2**34)


def mutated(data) -> bytes:
    """A file with a line deleted, doubled or moved, a cut, or a byte changed."""
    original = SMALL.encode() if data.draw(st.booleans()) else GOLDEN.read_bytes()
    lines = original.split(b"\n")
    place, other = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    match data.draw(st.sampled_from(["delete", "double", "move", "cut", "byte"])):
        case "delete":
            changed = b"\n".join(lines[:place] + lines[place + 1 :])
        case "double":
            changed = b"\n".join([*lines[:place], lines[place], *lines[place:]])
        case "move":
            lines.insert(other, lines.pop(place))
            changed = b"\n".join(lines)
        case "cut":
            changed = original[: data.draw(st.integers(0, len(original) - 1))]
        case _:
            at = data.draw(st.integers(0, len(original) - 1))
            changed = original[:at] + bytes([data.draw(st.integers(0, 255))]) + original[at + 1 :]
    return changed


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_are_refused_or_the_same(tmp_path, data):
    """An error, or what the file says."""
    changed = mutated(data)
    try:
        model = read(tmp_path, changed)
    except ValueError as error:
        assert str(tmp_path) in str(error)
        return
    assert named(model) == by_lines(changed)


def by_lines(text: bytes) -> list[dict[tuple[str, ...], tuple[float, float]]]:
    """A second reader, which trusts the file."""
    entries: list[dict] = []
    for line in text.split(b"\n"):
        fields = line.translate(bytes.maketrans(b"\t\r\0", b"   ")).decode().split(" ")
        fields = [{"<UNK>": "<unk>"}.get(field, field) for field in fields if field]
        if fields and fields[0].endswith("-grams:"):
            entries.append({})
        elif fields and entries and fields[0] != "\\end\\":
            n = len(entries)
            words, rest = tuple(fields[1 : n + 1]), fields[n + 1 :]
            numbers = [float(field) for field in (fields[0], *rest)]
            log_prob, log_backoff = (-math.inf if x <= -99 else math.log(10) * x for x in [*numbers, 0.0][:2])
            entries[-1][words] = -math.inf if words == ("<s>",) else log_prob, log_backoff
        if fields == ["\\end\\"]:
            break
    for mark in arpa.MARKS:
        entries[0].setdefault((mark,), (-math.inf, 0.0))
    return entries


def bits(path: Path, backend: str) -> tuple | str:
    """What is in a file, to the last bit, or what is wrong with it."""
    try:
        model = read_arpa(path, backend=backend)
    except ValueError as error:
        return str(error)
    return model.words, [[(a.dtype, a.tobytes()) for a in table] for table in model.tables.orders]


@pytest.fixture
def small_pieces(backend, monkeypatch):
    """Routines that share out even a few lines; the test is left out where there are none."""
    if backend == "numpy":
        pytest.skip("nothing to compare: the other turn does")
    monkeypatch.setattr(arpa_routines, "num_cores", lambda: 3)
    return monkeypatch


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(1, 300), st.integers(1, 40))
def test_both_readers_find_the_same(small_pieces, tmp_path, data, block, piece):
    """In whole files and mutated ones, whatever is read at once: bits, or the error with its line."""
    small_pieces.setattr(arpa_lines, "BLOCK", block)
    small_pieces.setattr(arpa_routines, "LEAST_PIECE", piece)
    path = tmp_path / data.draw(st.sampled_from(["m.arpa", "m.arpa.gz"]))
    pack = gzip.compress if path.suffix == ".gz" else bytes
    packed = pack(GOLDEN.read_bytes() if data.draw(st.booleans()) else mutated(data))
    path.write_bytes(packed[: data.draw(st.sampled_from([None, None, len(packed) - 9]))])
    assert bits(path, "native") == bits(path, "numpy")


ODD = """-0 0 -0.0 +0.5 -inf -Infinity inf nan -nan -1_5 1_5 -1e-320 -5e-324 -2e-324 -1e400 -1e-400 0x1p3 -.5
-5. - . -. e5 -e5 -1e -1e+ -1e5e5 --1 -1-1 -9007199254740993 -1.00000000000000011102230246251565404236316 -99
-98.99999999999999 -1e22 -1e23 -123456789012345e-22 -1234567890123456e-22 -0.000000000000000000001"""
negative = st.floats(-1e3, 0.0)
numbers = st.one_of(
    negative.map(repr),
    st.tuples(st.sampled_from(["%.8g", "%.20e", "%.3E", "%f"]), negative).map(lambda pair: pair[0] % pair[1]),
    st.from_regex(r"-?0*[0-9]{0,25}\.?[0-9]{0,25}(e[+-]?[0-9]{1,4})?", fullmatch=True),
    st.sampled_from(ODD.split()),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(numbers, min_size=4, max_size=4))
def test_numbers_are_rounded_as_python_rounds_them(small_pieces, tmp_path, written):
    path = tmp_path / "m.arpa"
    first, second, third, fourth = written
    text = SMALL.replace("-0.75\ta\t-0.125", f"{first}\ta\t{second}").replace(
        "-0.5\ta b\t0", f"{third}\ta b\t{fourth}"
    )
    path.write_text(text)
    assert bits(path, "native") == bits(path, "numpy")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sentences, st.data())
def test_both_writers_write_the_same(small_pieces, tmp_path, texts, data):
    """Of any numbers and words, some of them long."""
    small_pieces.setattr(arpa_routines, "PART", data.draw(st.integers(1, 20)))
    tables = model_of(texts)
    any_number = st.floats(-1e300, 0.0) | st.floats(-5.0, 0.0) | st.just(-math.inf)
    orders = []
    for table in tables.orders:
        values = [
            np.array(data.draw(st.lists(any_number, min_size=len(a), max_size=len(a)))) for a in table[2:]
        ]
        orders.append(table._replace(log_prob=values[0], log_backoff=values[1].astype(float)))
    tables = replace(tables, orders=tuple(orders))
    words = ["a", "é" * data.draw(st.sampled_from([1, 100, 1000])), "<unk>x"]
    for name in ("native", "numpy"):
        write_arpa(tmp_path / name, tables, words, backend=name)
    assert (tmp_path / "native").read_bytes() == (tmp_path / "numpy").read_bytes()


def test_what_cannot_be_written(tmp_path):
    counts = count_ngrams(marked([[3, 4, 5]]), V, 2)
    with pytest.raises(ValueError, match="ARPA files hold nothing else"):
        write_arpa(tmp_path / "m.arpa", smoothing.stupid_backoff(counts).tables, WORDS)
    tables = smoothing.witten_bell(counts).tables
    for words, what in (
        (["a", "b"], "3 distinct"),
        (["a", "b", "b"], "3 distinct"),
        (["a", "b", "c d"], "blanks"),
        (["a", "b", "<UNK>"], "take it for <unk>"),
    ):
        with pytest.raises(ValueError, match=what):
            write_arpa(tmp_path / "m.arpa", tables, words)
    assert not list(tmp_path.iterdir())


def test_habits_of_the_tool(tmp_path):
    """`<unk>` first, `<s>` with log10 p = 0, what is impossible as -99, no negative zero."""
    tables = smoothing.maximum_likelihood(count_ngrams(marked([[3, 4, 5]]), V, 2)).tables
    write_arpa(tmp_path / "m.arpa", tables, WORDS)
    lines = (tmp_path / "m.arpa").read_text().split("\n")
    assert lines[5:7] == ["-99\t<unk>\t0", "0\t<s>\t-99"]
    assert not any(line.startswith("-0\t") or line.endswith("\t-0") for line in lines)


def test_progress(tmp_path):
    told, total = [], []
    read_arpa(GOLDEN, told.append, begin=total.append)
    assert sum(told) == total[0] == 481
    model = read_arpa(GOLDEN)
    told.clear()
    write_arpa(tmp_path / "m.arpa", model.tables, model.words, told.append)
    assert sum(told) == 481
