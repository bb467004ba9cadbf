"""Words that stand for something else: `<unk>` for what is unknown, and the marks of sentences' ends."""

from collections.abc import Iterator

from lmseq.data.corpora import BLANKS

UNK, BOS, EOS, LINE_END = "<unk>", "<s>", "</s>", "<eos>"
KEPT = {BOS: "the beginning of a sentence", EOS: "the end of a sentence", LINE_END: "the end of a line"}


def places_of(word: str, text: str | bytes) -> Iterator[int]:
    """Where a word stands between blanks in a text, or in a text's UTF-8; nothing is split or copied."""
    sought, blanks = (word, BLANKS) if isinstance(text, str) else (word.encode(), BLANKS.encode())
    place = text.find(sought)
    while place >= 0:
        end = place + len(sought)
        # Of nothing, at an end of the text, `in` is true as well.
        if text[max(0, place - 1) : place] in blanks and text[end : end + 1] in blanks:
            yield place
        place = text.find(sought, end)


def refuse_marks(text: str | bytes, name: str) -> None:
    """Raise ValueError where a text of words, called `name` in the message, has a word that is kept for ends.

    `<unk>` is no such word: it is the unknown one. Only texts of words know marks.
    """
    for mark, purpose in KEPT.items():
        if next(places_of(mark, text), None) is not None:
            raise ValueError(f"{name} has the word {mark}, which is kept for {purpose}: replace it")
