"""Train a language model on a text; watch it, stop it, resume it; evaluate, sample, draw.

    python -m experiments.train_lm --corpus=python_docs --workdir=runs/demo

The same command continues an interrupted run, bit for bit, and reprints a finished one's summary.
"""

from experiments import app  # first: it notes the time

import json
import signal
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments.texts import Texts, load_texts
from lmseq import config as configs
from lmseq.config import LanguageModelConfig
from lmseq.training.metrics import write_text

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # python -m experiments.train_lm --preset=shakespeare_cpu --workdir=W
    # About 70 s on two cores: passes 1.88 nats a character, the figure of a much-used transformer after
    # two minutes on such a machine, after about 12 s, and ends near 1.51, over the whole last 10 %.
    # Rate, partition and window were chosen on the last tenth of the training text; the validation text
    # chose nothing but the stopping point of the target.
    "shakespeare_cpu": {
        "corpus": "tiny_shakespeare",
        "valid_fraction": 0.1,
        "test_fraction": 0.0,
        "num_train_steps": 4000,
        "eval_every": 250,
        "checkpoint_every": 1000,
        "target_loss": 1.88,
    },
}
flags.DEFINE_string("workdir", None, "folder of the run: created, continued or, when finished, reprinted")
flags.DEFINE_enum("preset", "none", list(PRESETS), "sets defaults; explicit flags win")
NAMES = [name for section in configs.SECTIONS.values() for name in app.define_flags(section)]


def check_workdir(workdir: Path, config: LanguageModelConfig, texts: Texts) -> None:
    """ValueError unless the folder is new, empty, or holds this very run: same config, same text."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a file")
    config_path, corpus_path = workdir / "config.json", workdir / "corpus.json"
    if config_path.exists():
        differing = configs.differences(configs.from_json(config_path.read_text(encoding="utf-8")), config)
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(differing)}): "
                "choose another --workdir, or give it the flags it began with"
            )
        if corpus_path.exists() and json.loads(corpus_path.read_text(encoding="utf-8")) != texts.facts():
            raise ValueError(
                f"the text of {config.data.corpus} is not the one that {workdir} was begun with: "
                "choose another --workdir, or restore the text"
            )
    elif workdir.exists() and any(not path.name.startswith(".") for path in workdir.iterdir()):
        # Hidden files are the lock and what a kill at the very start left behind.
        raise ValueError(f"{workdir} is not empty and holds no run: choose another --workdir")


class Stop:
    """Set by SIGTERM or SIGINT, looked at between dispatches; a second signal interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


def train(config: LanguageModelConfig, workdir: Path, texts: Texts) -> int:
    """The stages of a run: set up or restore, train and watch, evaluate, draw, sum up."""
    import jax

    from experiments import watch
    from lmseq.models.build import build_model
    from lmseq.training import checkpoint, loop, optimizer, sharding, state, step

    stop = Stop()
    mesh = sharding.make_mesh()
    sharding.check_batch(mesh, config.data.batch_size)
    init_key, train_key, sample_key, report_key = jax.random.split(jax.random.key(config.train.seed), 4)
    model = build_model(config.model, len(texts.vocab))
    updates = optimizer.make_optimizer(config.train)
    fresh = state.init_training_jit(init_key, model, updates, config.data.batch_size)
    shardings = sharding.training_sharding(mesh, fresh)
    manager = checkpoint.open_manager(workdir, keep=config.train.keep_checkpoints)
    restored = checkpoint.restore_latest(manager, fresh, shardings)
    training = jax.device_put(restored.training, shardings)
    _say_where(config, restored)

    job = watch.Job(config, workdir, texts, model)
    watcher = watch.Watcher(job, sample_key, restored.progress, restored.step)
    tokens = jax.device_put(texts.ids["train"], sharding.replicated(mesh))
    dispatch = step.make_dispatch(model, updates, config.data.num_steps)
    num_steps = config.train.num_train_steps
    bar = tqdm(total=num_steps, initial=restored.step, disable=not sys.stderr.isatty(), leave=False)
    with ExitStack() as at_exit:
        at_exit.callback(checkpoint.close, manager)  # waits for the last save, whatever ends the loop
        at_exit.enter_context(closing(watcher))
        at_exit.enter_context(bar)
        for done in loop.dispatches(config, dispatch, mesh, training, tokens, train_key):
            training = done.training
            bar.set_postfix_str(watcher.record(done), refresh=False)
            bar.update(done.step - bar.n)
            if watcher.wants_checkpoint(done.step) or stop.signal is not None:
                checkpoint.save(manager, done.step, training, watcher.progress())
            if stop.signal is not None:
                break
    if stop.signal is not None:
        app.say(f"stopped at step {training.state.step}, saved; the same command goes on from here")
        return 128 + stop.signal
    from experiments import report  # draws: slow to import, and not needed before

    app.finish(workdir, report.conclude(job, training.state.params, watcher, report_key))
    return 0


def _say_where(config: LanguageModelConfig, restored: Any) -> None:
    """What is trained, and where it goes on from."""
    from lmseq.models.interface import count_parameters

    for line in restored.skipped:
        app.say(line)
    if restored.step:
        app.say(f"continuing from step {restored.step}")
    model, num_parameters = config.model, count_parameters(restored.training.state.params)
    layers = f"{model.num_layers} layer" + "s" * (model.num_layers > 1)
    app.say(f"{model.model}, {layers}, {model.hidden_size} units, {num_parameters:,} parameters")


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    preset = PRESETS[app.FLAGS.preset]
    config = configs.check(configs.from_flat(app.values(NAMES, preset)))
    workdir = Path(app.FLAGS.workdir)
    app.prepare_jax(config.train.host_devices)
    from lmseq.data.partition import check_stream

    texts = load_texts(config.data)
    data = config.data
    check_stream(texts.ids["train"].size, data.num_steps, data.batch_size, data.partition)
    check_workdir(workdir, config, texts)
    summary = app.finished_summary(workdir)
    if summary is not None:
        print(summary)
        return 0
    with app.locked(workdir):
        write_text(workdir / "config.json", configs.to_json(config))
        write_text(workdir / "corpus.json", json.dumps(texts.facts(), indent=1) + "\n")
        write_text(workdir / "vocab.json", texts.vocab.to_json())
        return train(config, workdir, texts)


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", "preset", *NAMES])
