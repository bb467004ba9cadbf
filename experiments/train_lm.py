"""Train a language model on a text; watch it, stop it, resume it; evaluate, sample, draw.

    python -m experiments.train_lm --corpus=python_docs --workdir=runs/demo

The same command continues an interrupted run, bit for bit, and reprints a finished one's summary.
"""

from experiments.frame import app  # first: it notes the time

from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments.frame import presets
from experiments.text.texts import Texts, load_texts
from lmseq.config import knobs, language_model
from lmseq.config.language_model import LanguageModelConfig
from lmseq.files import write_text

flags.DEFINE_string("workdir", None, "folder of the run: created, continued or, when finished, reprinted")
app.define_presets(presets.TRAIN_LM)
NAMES = app.define_all_flags(LanguageModelConfig)


def train(config: LanguageModelConfig, workdir: Path, texts: Texts, model: Any) -> int:
    """The stages of a run: train and watch, evaluate, draw, sum up."""
    from experiments.text import evaluate
    from experiments.frame import training
    from lmseq.training.job import Batches, Job

    data = config.data
    subject = evaluate.Subject(config, workdir, texts, model)
    job = Job(
        model,
        texts.ids["train"],
        config.train,
        Batches(data.batch_size, data.num_steps, data.partition),
        workdir=workdir,
        evaluate=partial(evaluate.evaluate, subject),
    )
    trained = training.run(job, evaluate.describe(config.model), data.level)
    from experiments.text import report  # draws: slow to import, and not needed before

    app.finish(workdir, report.conclude(subject, trained))
    return 0


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    preset = app.preset_of(presets.TRAIN_LM)
    config = language_model.check(knobs.from_flat(app.values(NAMES, preset), LanguageModelConfig))
    workdir = Path(app.FLAGS.workdir)
    app.prepare_jax(config.train.host_devices)
    from lmseq.data.partition import check_stream
    from lmseq.models.build import build_model
    from lmseq.recurrence.unrolled import check_backend
    from lmseq.training.memory import check_memory
    from lmseq.training.sharding import check_batch, make_mesh

    check_backend(config.model.backend, config.model.precision)
    texts = load_texts(config.data)
    if not texts.ids["valid"].size:
        raise ValueError("expected a validation text: valid_fraction must be above 0")
    data = config.data
    check_stream(texts.ids["train"].size, data.num_steps, data.batch_size, data.partition)
    check_batch(make_mesh(), data.batch_size)
    model = build_model(config.model, len(texts.vocab))
    check_memory(model)
    with app.opened(workdir, config, texts.facts(), "corpus.json") as finished:
        if finished is not None:
            print(finished)
            return 0
        write_text(workdir / "vocab.json", texts.vocab.to_json())
        return train(config, workdir, texts, model)


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", "preset", *NAMES])
