"""One file for a count model: what is read is what was written, or an error."""

import numpy as np
import pytest

from lmseq.ngram import smoothing
from lmseq.ngram.counts import count_ngrams
from lmseq.ngram.storage import load_tables, save_tables
from tests.ngrams import V, marked

COUNTS = count_ngrams(marked([[3, 4, 5, 3], [4, 4, 3], []]), V, 3)


@pytest.fixture
def path(tmp_path):
    made = smoothing.modified_kneser_ney(COUNTS, discount_fallback=True)
    save_tables(tmp_path / "t.npz", made.tables, word_of=np.arange(3))
    return tmp_path / "t.npz"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "made",
    [
        smoothing.stupid_backoff(COUNTS),
        smoothing.epsilon(COUNTS, [1.0], fallback="unigram"),
        smoothing.witten_bell(COUNTS[:1]),
    ],
)
def test_round_trip(tmp_path, made, verify):
    save_tables(tmp_path / "t.npz", made.tables, word_of=np.arange(3))
    tables, more = load_tables(tmp_path / "t.npz", verify=verify)
    assert (tables.log_unseen, tables.fallback) == (made.tables.log_unseen, made.tables.fallback)
    for one, other in zip(tables.orders, made.tables.orders, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    assert list(more) == ["word_of"]
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_arrays_are_mapped(path):
    tables, _ = load_tables(path)
    assert all(isinstance(array, np.memmap) or not array.size for table in tables.orders for array in table)
    with pytest.raises(ValueError, match="read-only"):
        tables.orders[0].log_prob[0] = 0.0


def test_every_truncation_is_found(path):
    data = path.read_bytes()
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="is damaged"):
            load_tables(path)


def test_every_flipped_byte_is_found_or_harmless(path):
    """What a checksum does not cover, such as dates, may change; no array may."""
    data = path.read_bytes()
    whole, _ = load_tables(path)
    expected = [np.array(array) for table in whole.orders for array in table]
    for place in range(0, len(data), 23):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            tables, _ = load_tables(path)
        except ValueError as error:
            assert "damaged" in str(error)
            continue
        found = [np.array(array) for table in tables.orders for array in table]
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(left, right)


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_tables(tmp_path / "t.npz")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(ValueError, match="holds no count tables"):
        load_tables(tmp_path / "other.npz")
