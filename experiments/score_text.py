"""Score texts under a trained model: log-likelihood, perplexity, bits per character; or pairs of texts.

    python -m experiments.score_text --run=runs/demo --text="the cat sat" --text="sat cat the"
    python -m experiments.score_text --run=runs/demo --file=mybook.txt --per_token
    python -m experiments.score_text --run=runs/demo --pairs=grammar.tsv

The first token counts: its probability is the model's before it has seen anything, or only the --context.
Several texts are ranked, the most probable per character first. Of pairs (a better text, a tab, a worse text
and, if wanted, a tab and a group in each line) it is counted how often the better one is the more probable.
The last line is a JSON object.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import say
from experiments.frame.flags import Given
from experiments.text.prompts import encode_prompt, say_unknown
from lmseq.config.knobs import MOST_UNITS, at_least, knob
from lmseq.data.corpora import read_text
from lmseq.data.tokens import normalize_text, split_words
from lmseq.files import to_json


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored, under which model."""

    run: str = knob(
        "",
        "folder of a run of train_lm (also DIR:best, DIR:STEP) or train_ngram, or an ARPA file or pipe",
        is_path=True,
    )
    checkpoint: Literal["latest", "best"] = knob("latest", "the last parameters, or the best by validation")
    text: tuple[str, ...] = knob((), "a text to score; give it several times to rank several")
    file: str = knob("", "a UTF-8 file to score, as one stream", is_path=True)
    pairs: str = knob(
        "", "a UTF-8 file of pairs: better TAB worse, or better TAB worse TAB group", is_path=True
    )
    context: str = knob("", "a text that is read before each, and not scored, such as $'\\n' for a new line")
    per_token: bool = knob(False, "list each token with its log-probability in nats")
    num_steps: int = knob(256, "inputs of a window; sets speed and memory, not the figure")
    batch_size: int = knob(32, "strips scored in parallel; sets speed and memory, not the figure")


def read_texts(options: ScoreOptions) -> list[str]:
    """What the flags name; one of --text, --file and --pairs, and nothing that is empty. None of pairs."""
    given = [name for name in ("text", "file", "pairs") if getattr(options, name)]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none of them"
        raise ValueError(f"expected one of --text (once or more), --file and --pairs, got {got}")
    if options.pairs and options.per_token:
        raise ValueError("--per_token does nothing beside --pairs: leave it out")
    texts = [read_text(Path(options.file))] if options.file else list(options.text)
    if not all(texts):
        raise ValueError("expected a text of at least one character, got an empty one")
    return texts


def is_of_words(run: Any) -> bool:
    """Whether texts are scored as the reference tool does: by tables of words, each line by itself."""
    return run.tables is not None and run.vocab.level == "word"


def read_context(run: Any, options: ScoreOptions) -> tuple[str, np.ndarray]:
    """The context as it stands before a text, and its ids."""
    text = options.context
    needs_space = run.vocab.level == "word" and text and not text[-1].isspace()
    return text + " " * bool(needs_space), encode_prompt(run.vocab, text, "--context")


def encode(run: Any, text: str, options: ScoreOptions) -> np.ndarray:
    """Ids of a text, at least one."""
    ids = run.vocab.encode(text, name=options.file or options.pairs or "--text")
    if not ids.size:
        raise ValueError(f"expected a text with at least one token, got {text[:20]!r}: nothing is left of it")
    return ids


def score(run: Any, text: str, options: ScoreOptions) -> dict[str, Any]:
    """Figures of one text, in nats unless the name says otherwise; prints its tokens when asked to."""
    from lmseq import runs, scoring

    ids, (context, before) = encode(run, text, options), read_context(run, options)
    of_words = {}
    if is_of_words(run):
        log_probs, unseen = (column[before.size :] for column in runs.score_lines(run, context + text))
        known = log_probs[~unseen]
        perplexity = scoring.loss_figures(-known.sum(), known.size)["perplexity"] if known.size else None
        of_words = {"num_unknown": int(unseen.sum()), "perplexity_known": perplexity}
    else:
        cuts = {"num_steps": options.num_steps, "batch_size": options.batch_size}
        whole = np.concatenate([before, ids])
        log_probs = scoring.score_stream(run.model, run.params, whole, **cuts)[before.size :]
    if options.per_token:
        for token, log_prob in zip(run.vocab.token_strings(ids), log_probs, strict=True):
            print(f"{log_prob:10.4f}  {token}")
    nll = -float(log_probs.sum(dtype=np.float64))
    say_unknown(run.vocab, text)
    return {
        "text": text if len(text) <= 60 else text[:57] + "...",
        "log_likelihood": -nll,
        "num_tokens": ids.size,
        **text_figures(run.vocab, text, nll, ids.size),
        **of_words,
    }


def text_figures(vocab: Any, text: str, nll: float, num_tokens: int) -> dict[str, Any]:
    """Figures by token, character, byte and word, of which the last three compare between levels.

    Words are those of level word: what stands between blanks, and each end of a line that is scored.
    """
    from lmseq import scoring

    text = normalize_text(text, vocab.normalize)
    num_bytes = len(text.encode())
    is_ended = vocab.level == "word" or text.endswith("\n")
    num_words = len(split_words(text)) - (not is_ended)
    return {
        "num_chars": len(text),
        "num_bytes": num_bytes,
        "num_words": num_words,
        **scoring.loss_figures(nll, num_tokens, len(text)),
        "bits_per_byte": nll / (math.log(2.0) * num_bytes),
        "perplexity_per_word": scoring.loss_figures(nll, num_words)["perplexity"] if num_words else None,
    }


def log_likelihoods(run: Any, options: ScoreOptions, texts: Sequence[str]) -> list[float]:
    """ln P of each of many short texts after the context, each from the beginning."""
    from lmseq import runs, scoring

    context, before = read_context(run, options)
    streams = [encode(run, text, options) for text in texts]
    say_unknown(run.vocab, *texts)
    if is_of_words(run):
        lines = runs.score_lines(run, *(context + text for text in texts)).log_probs
        ends = np.cumsum([before.size + ids.size for ids in streams])
        if len(lines) != ends[-1]:
            raise ValueError(f"expected pairs of one line each, got {len(lines)} words and not {ends[-1]}")
        parts = np.split(lines, ends[:-1])
    else:
        whole = [np.concatenate([before, ids]) for ids in streams]
        parts = scoring.score_texts(run.model, run.params, whole)
    return [float(part[before.size :].sum(dtype=np.float64)) for part in parts]


def judge_pairs(run: Any, options: ScoreOptions) -> dict[str, Any]:
    """Print the accuracy by group; the figures."""
    from experiments.text.pairs import judge, read_pairs, table

    found = judge(read_pairs(Path(options.pairs)), partial(log_likelihoods, run, options))
    print("\n".join(table(found)))
    return found.pop("all") | {"groups": found}


def rank(run: Any, texts: list[str], options: ScoreOptions) -> dict[str, Any]:
    """Print the texts with their figures, the most probable per character first; the figures."""
    scores = sorted(
        (score(run, text, options) for text in texts), key=lambda figures: figures["bits_per_char"]
    )
    print("rank  nats        tokens  perplexity  bits/char  bits/byte  perplexity/word  text")
    for number, figures in enumerate(scores, 1):
        by_word = figures["perplexity_per_word"]
        print(
            f"{number:>4}  {figures['log_likelihood']:<10.4f}{figures['num_tokens']:>8,}"
            f"{figures['perplexity']:>12.4f}{figures['bits_per_char']:>11.4f}{figures['bits_per_byte']:>11.4f}"
            f"{'-' if by_word is None else format(by_word, '.4g'):>17}  {figures['text']!r}"
        )
    return scores[0] if len(scores) == 1 else {"texts": scores}


def act(options: ScoreOptions, given: Given) -> None:
    """Score, rank or judge, print."""
    if not options.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    texts = read_texts(options)
    at_least(1, MOST_UNITS, num_steps=options.num_steps, batch_size=options.batch_size)
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    from experiments.text.evaluate import load_run
    from lmseq import runs

    run = load_run(options.run, options.checkpoint)
    if not runs.is_proper(run):
        say("stupid back-off gives scores, not probabilities: compare them with its own only")
    found = judge_pairs(run, options) if options.pairs else rank(run, texts, options)
    print(to_json({"run": str(options.run), "step": run.step} | found), flush=True)


COMMAND = Command(__doc__, ScoreOptions, act)

if __name__ == "__main__":
    main(COMMAND)
