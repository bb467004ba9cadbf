r"""How symbols are spelled in ARPA files, for other tools: as in the text, character by character.

An ARPA file separates by blanks, and keeps some words for itself. So a blank, and a byte that is no printable
ASCII, is written `\x20` or the like: beside characters and bytes, which are single, that is no other symbol.
A word that is spelled like a mark has a backslash in front, and so has what would then be taken for it:
`<unk>` is `\<unk>`, `\<unk>` is `\\<unk>`.
"""

import re

from lmseq.data.marks import BOS, EOS, LINE_END, UNK, refuse_marks
from lmseq.data.tokens import WORD, Vocab, normalize_text

UNK_CAPITALS = "<UNK>"  # the unknown word too, to readers of ARPA files
_LIKE_A_MARK = re.compile(r"\\*(?:" + "|".join((UNK, UNK_CAPITALS, BOS, EOS, LINE_END)) + ")")
_BLANKS = str.maketrans({" ": r"\x20", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\0": r"\x00"})


def _spelled(symbol: str) -> str:
    return "\\" + symbol if _LIKE_A_MARK.fullmatch(symbol) else symbol.translate(_BLANKS)


def spell_symbols(vocab: Vocab) -> list[str]:
    """The word of an ARPA file that each of V symbols is written as: distinct, without blanks, and no mark.

    A symbol 0 that stands for what is unknown to the model is `<unk>` there. What it is spelled as here it is
    where it was counted itself, as `<unk>` of the text or for rare symbols.
    """
    symbols = vocab.tokens if vocab.tokens else vocab.token_strings(range(len(vocab)))
    return [_spelled(symbol) for symbol in symbols]


def spell_text(vocab: Vocab, text: str) -> str:
    """A text in the words that `spell_symbols` writes, one space apart, to be scored with another tool.

    Lines of words stay lines; at the other levels a text is one line, its line ends symbols. What the
    vocabulary lacks is spelled alike, so the file lacks it too. Raises ValueError for words of a text that
    are kept for sentences' ends.
    """
    text = normalize_text(text, vocab.normalize)
    match vocab.level:
        case "word":
            refuse_marks(text, "the text")
            lines = [(line, " ".join(map(_spelled, WORD.findall(line)))) for line in text.split("\n")]
            return "\n".join(
                words or " " * bool(line) for line, words in lines
            )  # a last line of blanks is one
        case "char":
            return " ".join(map(_spelled, text))
        case _:
            return " ".join(map(_spelled, vocab.token_strings(vocab.encode(text))))
