"""Sentences and words asked of count models singly: by compiled routines, and by the reference's package."""

from pathlib import Path
from typing import Any

from experiments.frame.console import say


def their_package() -> Any:
    """The package kenlm, or None."""
    try:
        import kenlm
    except ImportError:
        return None
    return kenlm


def compile_routines(native: Any) -> bool:
    """Whether the compiled routines are there, or could be made."""
    from lmseq.compiled import native_folder

    try:
        if not native.find():
            say("compiling the routines on count models")
            native.load(native.LIBRARY.compile(native_folder()))
    except (ValueError, OSError) as error:
        say(f"without compiled routines: {error}")
    return native.is_loaded()


def by_routines(tables: Any, words: list[str], text: str, expected: float) -> dict[str, Any]:
    """The compiled routines, from text: one sentence a call, and one word a call as a decoder asks."""
    from lmseq.ngram import native
    from lmseq.ngram.counts import EOS_ID
    from lmseq.ngram.queries import make_queries

    if not compile_routines(native):
        return {}
    queries, lines = make_queries(tables, words, "native"), text.splitlines()
    total = sum(queries.score(line) for line in lines)
    if abs(total - expected) > 1e-9 * abs(expected):
        raise ArithmeticError(f"expected the score {expected} from compiled routines, got {total}")
    ids = [[*queries.encode(line).tolist(), EOS_ID] for line in lines]

    def word_by_word() -> None:
        for sentence in ids:
            state = queries.begin
            for word in sentence:
                state, _ = queries.extend(state, word)

    return {
        "native_one_sentence": lambda: [queries.score(line) for line in lines],
        "native_one_word": word_by_word,
    }


def theirs_by_package(folder: Path, expected: float, text: bytes) -> dict[str, Any]:
    """One sentence at a time through the package that queries from Python."""
    kenlm = their_package()
    path = next((folder / name for name in ("theirs.bin", "theirs.arpa") if (folder / name).exists()), None)
    path = path or folder / "ours.arpa"  # without their programs their package reads what we wrote
    if kenlm is None or not path.exists():
        return {}
    model, lines = kenlm.Model(str(path)), text.decode().splitlines()
    total = sum(model.score(line) for line in lines)
    if abs(total - expected) > 1e-5 * abs(expected):
        raise ArithmeticError(f"expected the package's score {total}, got {expected}")

    def word_by_word() -> None:
        for line in lines:
            state = kenlm.State()
            model.BeginSentenceWrite(state)
            for word in [*line.split(), "</s>"]:
                longer = kenlm.State()
                model.BaseScore(state, word, longer)
                state = longer

    return {
        "kenlm_one_sentence": lambda: [model.score(line) for line in lines],
        "kenlm_one_word": word_by_word,
    }
