"""A text and its tokens."""

from dataclasses import dataclass
from typing import Literal

from lmseq.config.knobs import at_least, below_one, check_idle, knob, pick


@dataclass(frozen=True)
class TextConfig:
    """Text and tokens."""

    corpus: str = knob(
        "python_docs",
        "python_docs, time_machine, tiny_shakespeare or ptb; or a text file; or a folder with train.txt, "
        "valid.txt and test.txt; or a store of prepare_text, or nanoGPT's train.bin and val.bin",
        is_path=True,
    )
    level: Literal["byte", "char", "word", "bpe", "ids"] = knob(
        "char", "what a token is; ids: numbers, of a store that has no vocabulary"
    )
    normalize: Literal["none", "letters"] = knob("none", "letters: lower-case a-z and single spaces only")
    valid_fraction: float = knob(0.05, "share of the text for validation, after the training part")
    test_fraction: float = knob(0.05, "share of the text for the test, at its end; 0 for none")
    min_count: int = knob(1, "characters or words rarer than this in the training text become <unk>")
    bpe_vocab_size: int = knob(1024, "vocabulary size of level bpe")


def check_text(text: TextConfig) -> None:
    """Raise ValueError for a setting of the text that is out of range or that nothing reads."""
    at_least(1, **pick(text, "min_count"))
    below_one(**pick(text, "valid_fraction", "test_fraction"))
    check_idle(
        (text, "bpe_vocab_size", text.level == "bpe", "level bpe"),
        (text, "min_count", text.level in ("char", "word"), "level char or word"),
    )
