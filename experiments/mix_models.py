"""Mix models of the same text: weights fitted on the validation text, everything scored on the test text.

    python -m experiments.mix_models --runs=runs/counts,runs/gru --workdir=runs/mixed
    python -m experiments.mix_models --runs=runs/counts,runs/gru --cache_size=2000 --workdir=runs/cached
    python -m experiments.mix_models --runs=runs/gru --dynamic_rate=0.01,0.03,0.1 --workdir=runs/adapted

Runs of train_lm and train_ngram go together that were made of the same text, split alike, at the same level.
What comes of it is a run too, to be scored with and sampled from. --cache_size puts a cache of the latest
tokens around each model: around one with a hidden state (a recurrent net, attention, a stack) compared by
that, around others by how often each came.

--dynamic_rate lets each net go on learning from the text that it reads, by a step of gradient descent after
each --dynamic_segment tokens (dynamic evaluation, Krause et al. 2018); --dynamic_scaled divides gradients by
the size that they had in training. Counts stay as they are, and a cache around such a net compares by how
often each token came. --weight_share lets the weights follow what predicted well (Herbster and Warmuth 1998).
"""

from pathlib import Path
from typing import Any

from experiments.frame.experiment import Call, Experiment, main
from lmseq.config import mixture


def prepare(call: Call) -> Any:
    """The runs, checked for fit."""
    from experiments.text import mixing

    return mixing.prepare(call.config)


def run(call: Call, workdir: Path, prepared: Any) -> dict[str, Any]:
    """Fit the weights, score, write the mixture."""
    from experiments.text import mixing

    return mixing.mix(workdir, prepared)


EXPERIMENT = Experiment(
    module="experiments.mix_models",
    doc=__doc__,
    config=mixture.MixtureConfig,
    check=mixture.check,
    num_devices=lambda config: 1,
    prepare=prepare,
    facts=lambda prepared: prepared.noted,
    facts_file="corpus.json",
    run=run,
    noun="mixture",
)

if __name__ == "__main__":
    main(EXPERIMENT)
