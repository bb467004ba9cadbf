"""Score texts under a trained model: log-likelihood, perplexity, bits per character.

    python -m experiments.score_text --run=runs/demo --text="the cat sat" --text="sat cat the"
    python -m experiments.score_text --run=runs/demo --file=mybook.txt --per_token

The first token counts: its probability is the model's before it has seen anything. Several texts are
ranked, the most probable per character first. The last line is a JSON object.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.console import listed, say
from experiments.frame.flags import Given
from lmseq.config.knobs import MOST_UNITS, at_least, knob
from lmseq.data.corpora import read_text
from lmseq.data.tokens import normalize_text
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
    per_token: bool = knob(False, "list each token with its log-probability in nats")
    num_steps: int = knob(256, "inputs of a window; sets speed and memory, not the figure")
    batch_size: int = knob(32, "strips scored in parallel; sets speed and memory, not the figure")


def read_texts(options: ScoreOptions) -> list[str]:
    """What the flags name; one of --text and --file, and nothing that is empty."""
    if bool(options.text) == bool(options.file):
        got = "both" if options.file else "neither"
        raise ValueError(f"expected either --text (once or more) or --file, got {got}")
    texts = [read_text(Path(options.file))] if options.file else list(options.text)
    if not all(texts):
        raise ValueError("expected a text of at least one character, got an empty one")
    return texts


def score(run: Any, text: str, options: ScoreOptions) -> dict[str, Any]:
    """Figures of one text, in nats unless the name says otherwise; prints its tokens when asked to."""
    from lmseq import runs, scoring

    ids = run.vocab.encode(text, name=options.file or "--text")
    if not ids.size:
        raise ValueError(f"expected a text with at least one token, got {text[:20]!r}: nothing is left of it")
    of_words = {}
    if run.tables is not None and run.vocab.level == "word":
        log_probs, unseen = runs.score_lines(run, text)
        known = log_probs[~unseen]
        perplexity = scoring.loss_figures(-known.sum(), known.size)["perplexity"] if known.size else None
        of_words = {"num_unknown": int(unseen.sum()), "perplexity_known": perplexity}
    else:
        log_probs = scoring.score_stream(
            run.model, run.params, ids, num_steps=options.num_steps, batch_size=options.batch_size
        )
    if not runs.is_proper(run):
        say("stupid back-off gives scores, not probabilities: compare them with its own only")
    if options.per_token:
        for token, log_prob in zip(run.vocab.token_strings(ids), log_probs, strict=True):
            print(f"{log_prob:10.4f}  {token}")
    nll = -float(log_probs.sum(dtype=np.float64))
    num_chars = len(normalize_text(text, run.vocab.normalize))
    unknown = run.vocab.unknown(text)
    if unknown:
        say(f"scored as {run.vocab.token_strings([0])[0]}: {listed(unknown)}")
    return {
        "text": text if len(text) <= 60 else text[:57] + "...",
        "log_likelihood": -nll,
        "num_tokens": ids.size,
        "num_chars": num_chars,
        **scoring.loss_figures(nll, ids.size, num_chars),
        **of_words,
    }


def act(options: ScoreOptions, given: Given) -> None:
    """Score, rank, print."""
    if not options.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    texts = read_texts(options)
    at_least(1, MOST_UNITS, num_steps=options.num_steps, batch_size=options.batch_size)
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    from experiments.text.evaluate import load_run

    run = load_run(options.run, options.checkpoint)
    scores = sorted(
        (score(run, text, options) for text in texts), key=lambda figures: figures["bits_per_char"]
    )
    print("rank  nats        tokens  perplexity  bits/char  text")
    for rank, figures in enumerate(scores, 1):
        print(
            f"{rank:>4}  {figures['log_likelihood']:<10.4f}{figures['num_tokens']:>8,}"
            f"{figures['perplexity']:>12.4f}{figures['bits_per_char']:>11.4f}  {figures['text']!r}"
        )
    where = {"run": str(options.run), "step": run.step}
    print(to_json(where | (scores[0] if len(scores) == 1 else {"texts": scores})), flush=True)


COMMAND = Command(__doc__, ScoreOptions, act)

if __name__ == "__main__":
    main(COMMAND)
