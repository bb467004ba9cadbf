"""Texts that a model reads before it is asked for more."""

from typing import Any

import numpy as np

from experiments.frame.console import listed, say
from lmseq.data.tokens import normalize_text


def say_unknown(vocab: Any, *texts: str) -> None:
    """A line that names what texts have and the vocabulary lacks; none where there is nothing."""
    unknown = dict.fromkeys(symbol for text in texts for symbol in vocab.unknown(text))
    if unknown:
        say(f"scored as {vocab.token_strings([0])[0]}: {listed(tuple(unknown))}")


def encode_prompt(vocab: Any, prompt: str, name: str = "the prompt") -> np.ndarray:
    """Ids of a prompt, int32 (T,); ValueError, calling it `name`, that says what the vocabulary lacks."""
    if not prompt.isascii() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ValueError(
            f"{name} is not UTF-8: type it anew, or choose an encoding of UTF-8 in your terminal"
        )
    ids = vocab.encode(prompt, name=name)
    unknown = vocab.unknown(prompt)
    if unknown:
        raise ValueError(f"{name} has what the vocabulary lacks: {listed(unknown)}")
    is_open = not normalize_text(prompt, vocab.normalize).endswith("\n")
    if vocab.level == "word" and ids.size and is_open:
        return ids[:-1]  # the end of the line, which a prompt leaves open
    return ids
