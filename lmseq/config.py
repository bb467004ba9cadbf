"""What a run is made of: frozen dataclasses, one flag a field, to and from JSON.

Experiments generate their flags from these fields, so that no knob is written twice; the help text
stands beside the default. `check` refuses settings that contradict each other or would do nothing.
"""

import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

ModelKind = Literal["rnn", "gru", "lstm", "mingru", "minlstm", "mlp", "linear"]
Config = TypeVar("Config")  # a frozen dataclass of sections, each a frozen dataclass of knobs


def knob(default: Any, meaning: str) -> Any:
    """A dataclass field with its default and the one line that says what it does."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class TextConfig:
    """Text and tokens."""

    corpus: str = knob(
        "python_docs",
        "python_docs, time_machine, tiny_shakespeare or ptb; or a text file; or a folder with train.txt, "
        "valid.txt and test.txt",
    )
    level: Literal["byte", "char", "word", "bpe"] = knob("char", "what a token is")
    normalize: Literal["none", "letters"] = knob("none", "letters: lower-case a-z and single spaces only")
    valid_fraction: float = knob(0.05, "share of the text for validation, after the training part")
    test_fraction: float = knob(0.05, "share of the text for the test, at its end; 0 for none")
    min_count: int = knob(1, "characters or words rarer than this in the training text become <unk>")
    bpe_vocab_size: int = knob(1024, "vocabulary size of level bpe")


@dataclass(frozen=True)
class DataConfig(TextConfig):
    """Text, tokens and partition."""

    partition: Literal["random", "sequential"] = knob(
        "sequential", "sequential: the carry goes on; random: shuffled windows, each from the initial carry"
    )
    batch_size: int = knob(32, "rows of a batch, over all devices")
    num_steps: int = knob(32, "inputs of a window; the length of truncated back-propagation through time")


@dataclass(frozen=True)
class ModelConfig:
    """The model under the contract."""

    model: ModelKind = knob(
        "gru",
        "recurrent cell; mlp, a neural n-gram over the last tau tokens; linear, one without hidden layers",
    )
    hidden_size: int = knob(256, "units of each layer")
    num_layers: int = knob(1, "layers, one above the other")
    embedding_size: int = knob(0, "width of the token embedding; 0: one-hot (for mlp and linear: 64)")
    tie_embeddings: bool = knob(False, "read out through the transposed embedding")
    tau: int = knob(8, "tokens that the mlp or linear model sees")
    dropout: float = knob(0.0, "rate at which each layer's outputs are dropped in training")
    dropout_kind: Literal["fresh", "variational"] = knob(
        "fresh", "a mask a step, or one mask for all steps of a window"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = knob(
        "float32", "of the factors of a recurrent model's products in training (tf32: on GPUs); else float32"
    )
    recompute_steps: int = knob(
        0, "keep activations of so many steps at a time, and compute the rest anew: for long windows; 0: all"
    )
    backend: Literal["auto", "scan", "native", "cudnn"] = knob(
        "auto",
        "loops of rnn, gru and lstm: XLA's (scan), compiled ones on a CPU (native), a GPU's own for lstm "
        "(cudnn), or the fastest there are",
    )


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, and what is recorded on the way."""

    optimizer: Literal["sgd", "adam", "adamw"] = knob("adam", "optimiser")
    learning_rate: float = knob(6e-3, "peak learning rate")
    schedule: Literal["constant", "cosine", "inverse"] = knob(
        "cosine", "after the warm-up: constant; cosine to zero; or peak / (1 + step / decay_steps)"
    )
    warmup_steps: int = knob(50, "steps of linear warm-up from zero")
    decay_steps: int = knob(1000, "time scale of the inverse schedule, in steps")
    momentum: float = knob(0.0, "momentum of sgd")
    weight_decay: float = knob(0.0, "decoupled weight decay of adamw")
    clip_norm: float = knob(1.0, "gradients are scaled down to this global norm; 0: never")
    num_train_steps: int = knob(3000, "optimiser steps in all")
    steps_per_dispatch: int = knob(50, "steps in one program call; also how often metrics are recorded")
    eval_every: int = knob(500, "steps between evaluations on the validation text")
    checkpoint_every: int = knob(1000, "steps between checkpoints")
    keep_checkpoints: int = knob(2, "latest checkpoints kept, beside the best by validation")
    target_loss: float = knob(0.0, "record the seconds until validation loss reaches this; 0: do not")
    seed: int = knob(0, "fixes initial parameters, order of the data, dropout and samples")
    host_devices: int = knob(1, "virtual CPU devices to share a batch")


@dataclass(frozen=True)
class ReportConfig:
    """The figures at the end of a run."""

    horizon_origins: int = knob(128, "origins of the k-step-ahead cross-entropy")
    horizon_samples: int = knob(64, "sampled continuations from each origin")


@dataclass(frozen=True)
class MixtureConfig:
    """Models that are mixed."""

    runs: str = knob("", "folders of runs of train_lm and train_ngram, separated by commas")
    checkpoint: Literal["latest", "best"] = knob("latest", "of neural runs: the last parameters, or the best")
    cache_size: int = knob(0, "latest tokens in a cache around each model; 0: no cache")


@dataclass(frozen=True)
class MixConfig:
    """All of a mixture's run."""

    mixture: MixtureConfig = field(default_factory=MixtureConfig)


@dataclass(frozen=True)
class LanguageModelConfig:
    """All of a language-model run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


def sections(kind: type) -> dict[str, Any]:
    """Each section of a config class by name, with its defaults."""
    return {section.name: section.default_factory() for section in dataclasses.fields(kind)}


def from_flat(values: dict[str, Any], kind: type[Config] = LanguageModelConfig) -> Config:
    """A config from field names to values; what is missing has its default.

    Raises ValueError for a name that is no field (with the nearest that is) and for values of the
    wrong type or outside their choices.
    """
    defaults, filled = sections(kind), {}
    rest = dict(values)
    for name, default in defaults.items():
        knobs = dataclasses.fields(default)
        chosen = {f.name: _typed(f, rest.pop(f.name)) for f in knobs if f.name in rest}
        filled[name] = dataclasses.replace(default, **chosen)
    if rest:
        known = [f.name for default in defaults.values() for f in dataclasses.fields(default)]
        unknown = next(iter(rest))
        near = difflib.get_close_matches(unknown, known, 1)
        raise ValueError(f"unknown setting {unknown!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    return kind(**filled)


def _typed(knob_field: dataclasses.Field, value: Any) -> Any:
    """The value, if the field can hold it."""
    choices = get_args(knob_field.type)
    if choices and value not in choices:
        raise ValueError(f"expected {knob_field.name} to be one of {', '.join(choices)}, got {value!r}")
    kind = str if choices else knob_field.type
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {knob_field.name} to be a {kind.__name__}, got {value!r}")
    return value


def to_flat(config: Any) -> dict[str, Any]:
    """Field names to values, over all sections."""
    return {k: v for section in dataclasses.asdict(config).values() for k, v in section.items()}


def to_json(config: Any) -> str:
    """The config as a flat JSON object, one field a line."""
    return json.dumps(to_flat(config), indent=1) + "\n"


def from_json(text: str, kind: type[Config] = LanguageModelConfig) -> Config:
    """Inverse of `to_json`. Raises ValueError for text that is not such an object."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"config.json is damaged ({error}): restore it, or choose another folder") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected config.json to hold an object, got {type(values).__name__}")
    return from_flat(values, kind)


def differences(old: Config, new: Config) -> list[str]:
    """`field: old -> new` for each field that is not the same."""
    before, after = to_flat(old), to_flat(new)
    return [f"{name}: {before[name]!r} -> {after[name]!r}" for name in before if before[name] != after[name]]


def check(config: LanguageModelConfig) -> LanguageModelConfig:
    """Return the config, or raise ValueError for the first setting out of range or in contradiction."""
    check_text(config.data)
    _check_ranges(config)
    _check_pairs(config)
    _check_idle(config)
    return config


def _check_ranges(config: LanguageModelConfig) -> None:
    """Each setting by itself."""
    data, model, report = config.data, config.model, config.report
    check_train(config.train)
    at_least(1, **_pick(data, "num_steps"))
    at_least(1, MOST_UNITS, **_pick(model, "hidden_size", "tau"))
    at_least(1, MOST_UNITS, **_pick(data, "batch_size"))
    at_least(1, 1000, **_pick(model, "num_layers"))
    at_least(1, MOST_DRAWS, **_pick(report, "horizon_origins", "horizon_samples"))
    at_least(0, MOST_UNITS, **_pick(model, "embedding_size"))
    at_least(0, **_pick(model, "recompute_steps"))
    below_one(**_pick(model, "dropout"))


def check_text(text: TextConfig) -> None:
    """Raise ValueError for a setting of the text that is out of range or that nothing reads."""
    at_least(1, **_pick(text, "min_count"))
    below_one(**_pick(text, "valid_fraction", "test_fraction"))
    check_idle(
        (text, "bpe_vocab_size", text.level == "bpe", "level bpe"),
        (text, "min_count", text.level in ("char", "word"), "level char or word"),
    )


def check_train(train: TrainConfig) -> None:
    """Raise ValueError for a setting of the training that is out of range."""
    at_least(
        1,
        **_pick(train, "num_train_steps", "steps_per_dispatch", "eval_every", "checkpoint_every"),
        **_pick(train, "keep_checkpoints", "host_devices", "decay_steps"),
    )
    at_least(0, **_pick(train, "warmup_steps", "seed", "momentum", "weight_decay"))
    at_least(0, **_pick(train, "clip_norm", "target_loss"))
    below_one(**_pick(train, "momentum"))
    if not 0.0 < train.learning_rate < 3.4e38:  # what a float32 holds
        raise ValueError(f"expected a positive learning_rate, got {train.learning_rate}")
    if train.warmup_steps >= train.num_train_steps and train.schedule == "cosine":
        raise ValueError(
            f"expected warmup_steps below num_train_steps={train.num_train_steps}, got {train.warmup_steps}"
        )


MOST = 2**31 - 1  # of any number: more fits no index
MOST_UNITS = 2**16  # of layers' widths: products of two sizes beyond overflow XLA's, which then aborts
MOST_DRAWS = 10**6  # of samples, origins and the like that are held at once


def at_least(bound: int, most: int = MOST, **fields: int | float) -> None:
    """Raise ValueError for the first field that is not a number from `bound` to `most`."""
    for name, value in fields.items():
        # Not `value < bound`: NaN must be refused too.
        if not bound <= value:
            raise ValueError(f"expected {name} of at least {bound}, got {value}")
        if not value <= most:
            raise ValueError(f"expected {name} of at most {most}, got {value}")


def below_one(**shares: int | float) -> None:
    """Raise ValueError for the first share that is not in [0, 1)."""
    for name, share in shares.items():
        if not 0.0 <= share < 1.0:
            raise ValueError(f"expected {name} in [0, 1), got {share}")


def _check_pairs(config: LanguageModelConfig) -> None:
    """Settings that must fit each other."""
    data, model, train = config.data, config.model, config.train
    if data.batch_size % train.host_devices:
        raise ValueError(
            f"expected a batch_size that {train.host_devices} devices divide, got {data.batch_size}"
        )
    if model.backend in ("native", "cudnn") and train.host_devices > 1:
        raise ValueError(
            f"backend {model.backend} is for one device: it needs host_devices=1, or choose auto"
        )
    if model.backend == "cudnn" and model.model != "lstm":
        raise ValueError(f"backend cudnn is for model lstm, got {model.model}: give backend auto")
    windowed = model.model in ("mlp", "linear")
    if model.tie_embeddings and (windowed or model.embedding_size != model.hidden_size):
        raise ValueError(
            "tie_embeddings needs a recurrent model with embedding_size equal to hidden_size "
            f"({model.hidden_size}), got model {model.model} and embedding_size {model.embedding_size}"
        )


def _check_idle(config: LanguageModelConfig) -> None:
    """A setting that nothing reads is refused rather than ignored."""
    model = config.model
    windowed = model.model in ("mlp", "linear")
    check_idle(
        (model, "tau", windowed, "models mlp and linear"),
        (model, "hidden_size", model.model != "linear", "models with hidden units"),
        (model, "num_layers", model.model != "linear", "models with hidden units"),
        (model, "dropout", model.model != "linear", "models with hidden units"),
        (model, "dropout_kind", not windowed and model.dropout > 0, "a recurrent model's dropout"),
        (model, "precision", not windowed, "recurrent models"),
        (model, "recompute_steps", not windowed, "recurrent models"),
        (model, "backend", model.model in ("rnn", "gru", "lstm"), "models rnn, gru and lstm"),
        *idle_in_training(config.train),
    )


Idle = tuple[Any, str, bool, str]  # a section, a field of it, whether it is read, and by what


def idle_in_training(train: TrainConfig) -> tuple[Idle, ...]:
    """The settings that only some optimisers and schedules read."""
    return (
        (train, "momentum", train.optimizer == "sgd", "optimizer sgd"),
        (train, "weight_decay", train.optimizer == "adamw", "optimizer adamw"),
        (train, "decay_steps", train.schedule == "inverse", "schedule inverse"),
    )


def check_idle(*knobs: Idle) -> None:
    """Raise ValueError for the first field that is not at its default and that nothing reads."""
    for section, name, read, reader in knobs:
        if not read and getattr(section, name) != getattr(type(section)(), name):
            raise ValueError(
                f"{name}={getattr(section, name)} does nothing here: it is read by {reader} only"
            )


def _pick(section: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(section, name) for name in names}
