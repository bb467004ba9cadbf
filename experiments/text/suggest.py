"""The commands that one may give after a run, as a shell takes them."""

import shlex
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from experiments.frame.console import say
from lmseq.data.tokens import EOS, UNK, Vocab


def suggest(workdir: Path, vocab: Vocab, words: Iterable[str]) -> None:
    """Say how to score a text and to sample from the model in a folder; `words` are of its text."""
    word = some_word(vocab, words)
    prompt = f" --prompt={shlex.quote(word)}" if word else ""
    lines = [command("score_text", workdir, f" --text={shlex.quote(word)}")] if word else []
    lines.append(command("sample_text", workdir, f"{prompt} --num_samples=4"))
    for head, line in zip(("next:  ", "       "), lines, strict=False):
        say(head + line)


def command(script: str, workdir: Path, rest: str) -> str:
    """A command line on the model in a folder."""
    return f"python -m experiments.{script} --run={shlex.quote(str(workdir))}{rest}"


def some_word(vocab: Vocab, words: Iterable[str]) -> str:
    """A word that the vocabulary has, rather one of letters; empty where there is none."""
    plain = [w for w in islice(words, 1000) if w and w not in (UNK, EOS) and w.isprintable()]
    known = [w for w in plain if not vocab.unknown(w)]
    letters = [w for w in known if w.isalpha()]
    return next((w for w in letters if 3 <= len(w) <= 20), (letters or known or [""])[0])
