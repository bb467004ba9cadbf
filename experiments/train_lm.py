"""Train a language model on a text; watch it, stop it, resume it; evaluate, sample, draw.

    python -m experiments.train_lm --corpus=python_docs --workdir=runs/demo

The same command continues an interrupted run, bit for bit, and reprints a finished one's summary.
"""

from experiments import app  # first: it notes the time

from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from experiments.texts import Texts, load_texts
from lmseq import config as configs
from lmseq.config import LanguageModelConfig
from lmseq.training.metrics import write_text

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # python -m experiments.train_lm --preset=shakespeare_cpu --workdir=W
    # About 110 s on two cores: passes 1.88 nats a character, the figure of a much-used transformer after
    # two minutes on such a machine, after about 12 s, and ends below 1.47, over the whole last 10 %.
    # Width, dropout, rate, partition and window were chosen on the last tenth of the training text; the
    # validation text chose nothing but the stopping point of the target.
    "shakespeare_cpu": {
        "corpus": "tiny_shakespeare",
        "valid_fraction": 0.1,
        "test_fraction": 0.0,
        "hidden_size": 384,
        "dropout": 0.1,
        "precision": "bfloat16",
        "num_train_steps": 4200,
        "eval_every": 300,
        "checkpoint_every": 1000,
        "target_loss": 1.88,
    },
    # python -m experiments.train_lm --preset=shakespeare_mix --workdir=W
    # About 85 s on two cores: 1.54 nats a character on the last tenth; 1.446 when mixed by
    # experiments.mix_models with the 7-gram of the same text (--valid_fraction=0.01 --test_fraction=0.1).
    # The weight is fitted on the hundredth before the last tenth, which neither was trained on.
    "shakespeare_mix": {
        "corpus": "tiny_shakespeare",
        "valid_fraction": 0.01,
        "test_fraction": 0.1,
        "num_train_steps": 5000,
        "eval_every": 500,
        "checkpoint_every": 2500,
    },
}
flags.DEFINE_string("workdir", None, "folder of the run: created, continued or, when finished, reprinted")
flags.DEFINE_enum("preset", "none", list(PRESETS), "sets defaults; explicit flags win")
NAMES = app.define_all_flags(LanguageModelConfig)


def train(config: LanguageModelConfig, workdir: Path, texts: Texts, model: Any) -> int:
    """The stages of a run: train and watch, evaluate, draw, sum up."""
    from experiments import judge, training
    from lmseq.data.partition import epoch_plan

    data = config.data
    subject = judge.Subject(config, workdir, texts, model)
    job = training.Job(
        train=config.train,
        workdir=workdir,
        model=model,
        stream=texts.ids["train"],
        plan_of=partial(
            epoch_plan,
            data.partition,
            texts.ids["train"].size,
            data.num_steps,
            data.batch_size,
            config.train.seed,
        ),
        batch_size=data.batch_size,
        num_steps=data.num_steps,
        evaluate=partial(judge.evaluate, subject),
        unit=data.level,
    )
    trained = training.run(job, judge.describe(config.model))
    if isinstance(trained, int):
        return trained
    from experiments import report  # draws: slow to import, and not needed before

    app.finish(workdir, report.conclude(subject, *trained))
    return 0


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    preset = PRESETS[app.FLAGS.preset]
    config = configs.check(configs.from_flat(app.values(NAMES, preset)))
    workdir = Path(app.FLAGS.workdir)
    app.prepare_jax(config.train.host_devices)
    from experiments.training import check_fits
    from lmseq.data.partition import check_stream
    from lmseq.models.build import build_model
    from lmseq.training.sharding import check_batch, make_mesh

    texts = load_texts(config.data)
    if not texts.ids["valid"].size:
        raise ValueError("expected a validation text: valid_fraction must be above 0")
    data = config.data
    check_stream(texts.ids["train"].size, data.num_steps, data.batch_size, data.partition)
    check_batch(make_mesh(), data.batch_size)
    model = build_model(config.model, len(texts.vocab))
    check_fits(model)
    with app.opened(workdir, config, texts.facts(), "corpus.json") as finished:
        if finished is not None:
            print(finished)
            return 0
        write_text(workdir / "vocab.json", texts.vocab.to_json())
        return train(config, workdir, texts, model)


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", "preset", *NAMES])
