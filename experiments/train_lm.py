"""Train a language model on a text; watch it, stop it, resume it; evaluate, sample, draw.

    python -m experiments.train_lm --corpus=python_docs --workdir=runs/demo

The same command continues an interrupted run, bit for bit, and reprints a finished one's summary.
"""

from experiments import app  # first: it notes the time

import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from lmseq import config as configs
from lmseq.config import LanguageModelConfig
from lmseq.data.corpora import read_corpus
from lmseq.data.text import Corpus, Vocab, build_vocab, prepare_corpus

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # python -m experiments.train_lm --preset=shakespeare_cpu --workdir=W
    # About 100 s on two cores; ends near 1.52 nats a character on the last 10 % and passes 1.88, the
    # figure of a much-used transformer after two minutes on such a machine, in about 15 s. Width, batch,
    # rate and schedule are those of a prototype tuned on other runs of the training text; the validation
    # text chose nothing but how often it is looked at and when to stop.
    "shakespeare_cpu": {
        "corpus": "tiny_shakespeare",
        "valid_fraction": 0.1,
        "test_fraction": 0.0,
        "num_train_steps": 2400,
        "eval_every": 300,
        "checkpoint_every": 600,
        "target_loss": 1.88,
    },
}
flags.DEFINE_string("workdir", None, "folder of the run: created, continued or, when finished, reprinted")
flags.DEFINE_enum("preset", "none", list(PRESETS), "sets defaults; explicit flags win")
NAMES = [name for section in configs.SECTIONS.values() for name in app.define_flags(section)]


class Texts(NamedTuple):
    """The corpus, its vocabulary, and each split's ids on the host."""

    corpus: Corpus
    vocab: Vocab
    ids: dict[str, np.ndarray]


def load_texts(config: LanguageModelConfig) -> Texts:
    data = config.data
    data_dir, cache_dir = app.data_folders()
    corpus = prepare_corpus(
        read_corpus(data.corpus, data_dir=data_dir, cache_dir=cache_dir),
        normalize=data.normalize,
        valid_fraction=data.valid_fraction,
        test_fraction=data.test_fraction,
        whole_words=data.level == "word",
    )
    vocab = build_vocab(
        corpus.train,
        level=data.level,
        normalize=data.normalize,
        min_count=data.min_count,
        bpe_vocab_size=data.bpe_vocab_size,
    )
    ids = {split: vocab.encode(getattr(corpus, split)) for split in ("train", "valid", "test")}
    if not ids["valid"].size:
        raise ValueError("expected a validation text: valid_fraction must be above 0")
    sizes = " / ".join(f"{ids[split].size:,}" for split in ids)
    app.say(f"{corpus.name}: {sizes} {data.level} tokens (train / valid / test), {len(vocab)} symbols")
    return Texts(corpus, vocab, ids)


def open_workdir(workdir: Path, config: LanguageModelConfig, vocab: Vocab) -> None:
    """Create the run's folder, or make sure that it is this run's: config and vocabulary must agree."""
    from lmseq.training.metrics import write_text

    path = workdir / "config.json"
    if path.exists():
        differing = configs.differences(configs.from_json(path.read_text(encoding="utf-8")), config)
        if differing:
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(differing)}): "
                "choose another --workdir, or give it the flags it began with"
            )
        vocab_path = workdir / "vocab.json"
        if vocab_path.exists() and Vocab.from_json(vocab_path.read_text(encoding="utf-8")) != vocab:
            raise ValueError(f"the corpus has changed since {workdir} was begun: its vocabulary differs")
    elif workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and holds no run: choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    # The vocabulary first: a folder that has a config has everything.
    write_text(workdir / "vocab.json", vocab.to_json())
    write_text(path, configs.to_json(config))


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
    from lmseq.models.interface import count_parameters
    from lmseq.training import checkpoint, loop, optimizer, sharding, state, step

    stop = Stop()
    mesh = sharding.make_mesh()
    sharding.check_batch(mesh, config.data.batch_size)
    init_key, train_key, sample_key, horizon_key = jax.random.split(jax.random.key(config.train.seed), 4)
    model = build_model(config.model, len(texts.vocab))
    updates = optimizer.make_optimizer(config.train)
    training = state.init_training_jit(init_key, model, updates, config.data.batch_size)
    shardings = sharding.training_sharding(mesh, training)
    manager = checkpoint.open_manager(workdir, keep=config.train.keep_checkpoints)
    restored = checkpoint.restore_latest(manager, training, shardings)
    progress = checkpoint.Progress()
    if restored:
        training, progress = restored.training, restored.progress
        for line in restored.skipped:
            app.say(line)
        app.say(f"continuing from step {restored.step}")
    training = jax.device_put(training, shardings)
    num_parameters = count_parameters(training.state.params)
    layers = f"{config.model.num_layers} layer" + "s" * (config.model.num_layers > 1)
    app.say(
        f"{config.model.model}, {layers}, {config.model.hidden_size} units, {num_parameters:,} parameters"
    )

    watcher = watch.Watcher(
        config, workdir, texts.vocab, texts.corpus, texts.ids, model, sample_key, progress
    )
    watcher.start(int(training.state.step))
    tokens = jax.device_put(texts.ids["train"], sharding.replicated(mesh))
    dispatch = step.make_dispatch(model, updates, config.data.num_steps)
    bar = tqdm(total=config.train.num_train_steps, initial=watcher.step, disable=not sys.stderr.isatty())
    for done in loop.dispatches(config, dispatch, mesh, training, tokens, train_key):
        training = done.training
        bar.update(done.step - bar.n)
        bar.set_postfix_str(watcher.record(done))
        if watcher.wants_checkpoint() or stop.signal is not None:
            checkpoint.save(manager, done.step, training, watcher.progress())
        if stop.signal is not None and done.step < config.train.num_train_steps:
            manager.close()
            bar.close()
            app.say(f"stopped at step {done.step}, saved; the same command goes on from here")
            return 128 + stop.signal
    bar.close()
    manager.close()
    watcher.conclude(training.state.params, num_parameters, horizon_key)
    return 0


def main() -> int:
    if not app.FLAGS.workdir:
        raise ValueError("expected --workdir=DIR, the folder that the run is written to")
    preset = PRESETS[app.FLAGS.preset]
    config = configs.check(configs.from_flat(app.values(NAMES, preset)))
    workdir = Path(app.FLAGS.workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"expected --workdir to be a folder, {workdir} is a file")
    app.prepare_jax(config.train.host_devices)
    texts = load_texts(config)
    open_workdir(workdir, config, texts.vocab)
    summary = app.finished_summary(workdir)
    if summary is not None:
        print(summary)
        return 0
    return train(config, workdir, texts)


if __name__ == "__main__":
    app.run(main, __doc__, ["workdir", "preset", *NAMES])
