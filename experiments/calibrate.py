"""How far a model's probabilities can be believed: reliability on a text, entropy of its own continuations.

    python -m experiments.calibrate --run=runs/demo --out=calibration.png
    python -m experiments.calibrate --run=runs/demo --file=mybook.txt --out=calibration.png

The text is a file, or the run's own validation text. Of all that has a probability near p, a share p should
come. And a model that draws from itself should be as uncertain as it is of the text: where the entropy of its
own continuations grows beyond its loss, they wander off (Braverman et al. 2020). The last line is a JSON
object.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.frame import start
from experiments.frame.command import KEEP_PROGRAMS, Command, main
from experiments.frame.flags import Given
from experiments.text.prompts import say_unknown
from lmseq.config.knobs import MOST_DRAWS, at_least, knob
from lmseq.data.corpora import read_text
from lmseq.files import to_json


@dataclass(frozen=True)
class CalibrateOptions:
    """Which model, on which text, and where the picture goes."""

    run: str = knob(
        "",
        "folder of a run of train_lm (also DIR:best, DIR:STEP), train_ngram or mix_models, or an ARPA file",
        is_path=True,
    )
    checkpoint: Literal["latest", "best"] = knob("latest", "the last parameters, or the best by validation")
    file: str = knob("", "a UTF-8 file to judge by; none: the run's validation text", is_path=True)
    out: str = knob("", "the picture, FILE.png", is_path=True)
    num_origins: int = knob(32, "places of the text from which the model goes on, fewer in a short text")
    num_tokens: int = knob(256, "tokens that it draws from each")
    seed: int = knob(0, "of what is drawn")


def read_tokens(run: Any, options: CalibrateOptions) -> np.ndarray:
    """Ids of the text."""
    from experiments.text.loading import load_texts, text_of
    from lmseq.config.mixture import MixtureConfig

    if options.file:
        text = read_text(Path(options.file))
        say_unknown(run.vocab, text)
        return run.vocab.encode(text, name=options.file)
    if run.config is None or isinstance(run.config, MixtureConfig):
        raise ValueError(f"{options.run} has no validation text of its own: expected --file=TEXT")
    tokens = load_texts(text_of(run.config), vocab=run.vocab).ids["valid"]
    if not len(tokens):
        raise ValueError(f"{options.run} was trained without a validation text: expected --file=TEXT")
    return np.asarray(tokens)


def by_length(values: np.ndarray) -> tuple[list[int], list[Any]]:
    """Ends of stretches of 1, 1, 2, 4, ... tokens, and the mean of (N, L) on each, with intervals over N."""
    from experiments.frame.intervals import estimate

    length = values.shape[1]
    ends = [*(2**i for i in range((length - 1).bit_length())), length]
    begins = [0, *ends[:-1]]
    means = [values[:, a:b].mean(axis=1, dtype=np.float64) for a, b in zip(begins, ends, strict=True)]
    return ends, [estimate(mean) for mean in means]


def act(options: CalibrateOptions, given: Given) -> None:
    """Measure, draw, print."""
    if not options.run:
        raise ValueError("expected --run=PATH, the folder of a trained model or an ARPA file")
    if Path(options.out).suffix != ".png" or Path(options.out).is_dir():
        raise ValueError(f"expected --out=FILE.png, got {options.out!r}")
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    at_least(2, MOST_DRAWS, num_origins=options.num_origins, num_tokens=options.num_tokens)
    at_least(0, seed=options.seed)
    start.prepare_jax(keep_programs=given.values[KEEP_PROGRAMS])
    import jax

    from experiments.text.calibration_picture import draw_calibration
    from experiments.text.evaluate import load_run
    from lmseq import plotting, reliability, runs

    run = load_run(options.run, options.checkpoint)
    if not runs.is_proper(run):
        raise ValueError(f"{options.run} is stupid back-off, whose scores are no probabilities: name another")
    tokens = read_tokens(run, options)
    num_origins = options.num_origins
    if "num_origins" not in given.names:  # as many as there is room for
        num_origins = max(2, min(num_origins, len(tokens) // options.num_tokens - 1))
    model, sizes = (
        (run.model, run.params, tokens),
        {"num_origins": num_origins, "num_tokens": options.num_tokens},
    )
    every, likeliest = reliability.reliability(*model)
    drawn = reliability.continuations(jax.random.key(options.seed), *model, **sizes)
    ends, entropy = by_length(drawn.entropy)
    loss = by_length(drawn.loss)[1]
    print_table(every, ends, entropy, loss)
    plotting.save_figure(draw_calibration(every, likeliest, ends, entropy, loss), Path(options.out))
    summary = {
        "run": str(options.run),
        "step": run.step,
        "picture": options.out,
        "num_tokens": len(tokens),
        "calibration_error": every.error() / every.observed.sum(),
        "likeliest_calibration_error": likeliest.error() / likeliest.number.sum(),
        "bins": [
            dict(zip(every._fields, row, strict=True))
            for row in zip(*map(np.ndarray.tolist, every), strict=True)
        ],
        "continuations": [
            {"tokens": end, "entropy": own.mean, "loss": of_text.mean}
            for end, own, of_text in zip(ends, entropy, loss, strict=True)
        ],
    }
    print(to_json(summary), flush=True)


def print_table(every: Any, ends: list[int], entropy: list[Any], loss: list[Any]) -> None:
    """What is drawn, as lines."""
    print("probability        given         mean p      share that comes")
    highs = [*every.edges[1:], 1.0]
    for low, high, *of in zip(every.edges, highs, every.number, every.expected, every.observed, strict=True):
        if of[0]:
            print(f"{low:<7.5g} to {high:<7.5g}{of[0]:>14,.0f}{of[1] / of[0]:>12.3g}{of[2] / of[0]:>12.3g}")
    print("up to token  entropy of its own continuations  loss on the text")
    for end, own, of_text in zip(ends, entropy, loss, strict=True):
        print(f"{end:>11}  {own!s:<32}  {of_text}")


COMMAND = Command(__doc__, CalibrateOptions, act)

if __name__ == "__main__":
    main(COMMAND)
