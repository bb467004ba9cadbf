"""The next commands that a run suggests: a shell takes them as they stand."""

import shlex
from pathlib import Path

import pytest

from experiments.text.suggest import some_word, suggest
from lmseq.data.tokens import build_vocab

TEXT = "the cat's hat\n"


@pytest.mark.parametrize("folder", ["runs/demo", "a run", "$x `y`", "it's", "-x", "naïve\nlines"])
def test_a_shell_takes_what_is_said(capsys, folder):
    suggest(Path(folder), build_vocab(TEXT, level="char"), TEXT.split())
    first, second = capsys.readouterr().err.split("\n       python")
    assert shlex.split(first.removeprefix("next:")) == [
        *"python -m experiments.score_text".split(), f"--run={folder}", "--text=the"
    ]  # fmt: skip
    assert shlex.split(second)[2:] == [f"--run={folder}", "--prompt=the", "--num_samples=4"]


@pytest.mark.parametrize("level", ["byte", "char", "word"])
@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["a", "'tis", "cat's", "cat"], {"byte": "cat", "char": "cat", "word": "a"}),
        (["'", "hat", "zebra"], {"byte": "hat", "char": "hat", "word": "hat"}),
        (["<unk>", "<eos>", "", "\u200b"], {"byte": "", "char": "", "word": ""}),
    ],
)
def test_a_word_is_one_that_the_model_knows(level, words, word):
    vocab = build_vocab("a 'tis the cat's hat\n" if level == "word" else "the cat's hat i", level=level)
    assert some_word(vocab, words) == word[level]


def test_without_a_word_there_is_no_text_to_score(capsys):
    suggest(Path("run"), build_vocab(TEXT, level="char"), ["\n"])
    assert capsys.readouterr().err == "next:  python -m experiments.sample_text --run=run --num_samples=4\n"
