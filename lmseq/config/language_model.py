"""A language-model run: text and partition, model, training, report."""

import math
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Literal

from lmseq.config.kinds import COMPILED, COMPILED_LAYERS, CUDNN_CELLS, CellKind
from lmseq.config.knobs import MOST, MOST_DRAWS, MOST_UNITS, at_least, below_one, check_idle, knob, pick
from lmseq.config.mixers import (
    STACK,
    MixerConfig,
    MixerKind,
    check_mixers,
    idle_mixers,
    is_stack,
    layer_names,
    settled_stack,
)
from lmseq.config.ngram_features import NgramFeatureConfig, check_ngram_features, idle_ngram_features
from lmseq.config.regularisation import (
    AS_DROPOUT,
    LossConfig,
    NoiseConfig,
    check_regularisation,
    idle_regularisation,
)
from lmseq.config.text import TextConfig, check_text
from lmseq.config.training import (
    TrainConfig,
    check_shares,
    check_train,
    idle_in_training,
    lengthened,
    settled,
)

COUNT_TOKENS = 2_000_000  # counted in about 5 s of one core, of which there are 100 in 200 MB

SCORE_TOKENS = 1_000_000  # scored in seconds, to a thousandth of a nat or two

ModelKind = Literal[CellKind, MixerKind, "stack", "mlp", "linear"]
WINDOWED = ("mlp", "linear")
# Settings of a model that its parameters do not depend on: how it is trained, and how it is computed.
APART_FROM_PARAMETERS = ("dropout", "dropout_kind", "precision", "recompute_steps", "backend", "chunk")
APART_FROM_PARAMETERS += ("init_range", "ngram_dropout", *NoiseConfig.__dataclass_fields__)


@dataclass(frozen=True)
class DataConfig(TextConfig):
    """Text, tokens and partition."""

    partition: Literal["random", "sequential"] = knob(
        "sequential", "sequential: the carry goes on; random: shuffled windows, each from the initial carry"
    )
    batch_size: int = knob(32, "rows of a batch, over all devices")
    num_steps: int = knob(32, "inputs of a window; the length of truncated back-propagation through time")
    random_windows: bool = knob(
        False,
        "windows of random length, of num_steps on nearly all steps and half of it on some, with a spread; "
        "the learning rate of a step is as much longer or shorter",
    )


@dataclass(frozen=True)
class ModelConfig(NgramFeatureConfig, NoiseConfig, MixerConfig):
    """The model under the contract."""

    model: ModelKind = knob(
        "gru",
        "recurrent cell; attention; a matrix state, free or as published; stack, as --layers says; mlp, a "
        "neural n-gram over the last tau tokens; linear, one without hidden layers",
    )
    hidden_size: int = knob(256, "units of each layer")
    num_layers: int = knob(1, "layers, one above the other")
    embedding_size: int = knob(0, "width of the token embedding; 0: one-hot (for mlp and linear: 64)")
    init_range: float = knob(
        0.0, "initial parameters are uniform between minus this and this; 0: as each layer draws its own"
    )
    tie_embeddings: bool = knob(
        False, "read out through the transposed embedding, of another width than the layers by a projection"
    )
    tau: int = knob(8, "tokens that the mlp or linear model sees")
    dropout: float = knob(0.0, "rate at which each layer's outputs are dropped in training")
    dropout_kind: Literal["fresh", "variational"] = knob(
        "fresh", "a mask a step, or one mask for all steps of a window (locked)"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = knob(
        "float32",
        "of the factors of products in training, of recurrent models and stacks (tf32: on GPUs); else, and "
        "of attention and matrix states themselves, float32",
    )
    recompute_steps: int = knob(
        0, "keep activations of so many steps at a time, and compute the rest anew: for long windows; 0: all"
    )
    backend: Literal["auto", "scan", "native", "cudnn"] = knob(
        "auto",
        f"loops of {COMPILED}: XLA's (scan), compiled ones on a CPU (native), a GPU's own for lstm "
        "(cudnn), or the fastest there are",
    )
    last_size: int = knob(0, "units of the last recurrent layer, as wide as a tied embedding; 0: hidden_size")


@dataclass(frozen=True)
class ReportConfig:
    """The figures at the end of a run."""

    horizon_origins: int = knob(128, "origins of the k-step-ahead cross-entropy")
    horizon_samples: int = knob(64, "sampled continuations from each origin")
    count_tokens: int = knob(
        COUNT_TOKENS, "count models, to compare with, see the latest so many tokens of a text; 0: all"
    )
    score_tokens: int = knob(
        SCORE_TOKENS,
        "losses of a longer validation or test text are those of a sample of so many tokens; 0: all",
    )


@dataclass(frozen=True)
class CourseConfig:
    """Where a training begins, and how often it goes through its text."""

    init_from: str = knob(
        "",
        "begin with the parameters and the vocabulary of this run: DIR, or DIR:latest, DIR:best, DIR:STEP",
        is_path=True,
    )
    init_optimizer: bool = knob(
        False, "of init_from take the optimiser's state, too; the schedule begins anew all the same"
    )
    num_epochs: float = knob(
        0.0,
        "instead of num_train_steps: as many steps as so many passes through the training text have; 0: none",
    )


@dataclass(frozen=True)
class LanguageModelConfig:
    """All of a language-model run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    course: CourseConfig = field(default_factory=CourseConfig)
    loss: LossConfig = field(default_factory=LossConfig)


def check(config: LanguageModelConfig) -> LanguageModelConfig:
    """The config with derived settings filled in; ValueError for the first out of range or in contradiction.

    Derived are the steps of the warm-up, and the width of an embedding that is tied and has none. Of a number
    of epochs, `of_epochs` derives the steps, and those of the warm-up, once the text is known.
    """
    check_text(config.data)
    model = settled_stack(config.model)
    if model.tie_embeddings and not model.embedding_size and model.model not in WINDOWED:
        model = replace(model, embedding_size=model.last_size or model.hidden_size)
    config = replace(config, model=model)
    _check_ranges(config)
    _check_pairs(config)
    _check_idle(config)
    return config if config.course.num_epochs else replace(config, train=settled(config.train))


def of_epochs(config: LanguageModelConfig, num_batches: int) -> LanguageModelConfig:
    """The config with the steps of its epochs: ceil(num_epochs * num_batches).

    num_batches: those of the first epoch; others differ by one at most, as their offsets do. Raises
    ValueError for more steps than can be counted, and for a warm-up that does not fit them.
    """
    # In the decimals that were given: 0.1 of 30 batches are 3, whatever a float makes of them.
    steps = math.ceil(Fraction(repr(config.course.num_epochs)) * num_batches)
    if steps > MOST:
        raise ValueError(
            f"expected num_epochs of at most {MOST // num_batches}, got {config.course.num_epochs}"
        )
    train = replace(config.train, num_train_steps=steps)
    check_train(train)
    return replace(config, train=settled(train))


def of_length(config: LanguageModelConfig, num_train_steps: int) -> LanguageModelConfig:
    """The config of the same training with so many steps in all; ValueError as `training.lengthened`."""
    train = lengthened(config.train, num_train_steps)
    return check(replace(config, train=train, course=replace(config.course, num_epochs=0.0)))


def model_differences(there: ModelConfig, here: ModelConfig) -> list[str]:
    """`field: value there, value here` for each setting that differs and that parameters depend on."""
    return [
        f"{each.name}: {getattr(there, each.name)} there, {getattr(here, each.name)} here"
        for each in fields(ModelConfig)
        if each.name not in APART_FROM_PARAMETERS and getattr(there, each.name) != getattr(here, each.name)
    ]


def _check_ranges(config: LanguageModelConfig) -> None:
    """Each setting by itself."""
    data, model, report = config.data, config.model, config.report
    # How many steps so many epochs have is not known yet.
    check_train(replace(config.train, num_train_steps=MOST) if config.course.num_epochs else config.train)
    at_least(0, **pick(config.course, "num_epochs"))
    at_least(1, **pick(data, "num_steps"))
    at_least(1, MOST_UNITS, **pick(model, "hidden_size", "tau"))
    at_least(1, MOST_UNITS, **pick(data, "batch_size"))
    at_least(1, 1000, **pick(model, "num_layers"))
    at_least(1, MOST_DRAWS, **pick(report, "horizon_origins", "horizon_samples"))
    at_least(0, MOST_UNITS, **pick(model, "embedding_size", "last_size"))
    at_least(0, **pick(model, "recompute_steps"))
    at_least(0, 1e3, **pick(model, "init_range"))
    at_least(0, **pick(report, "count_tokens", "score_tokens"))
    below_one(**pick(model, "dropout"))
    check_regularisation(model, config.loss)
    check_mixers(model, model.model)
    check_ngram_features(model)


def _check_pairs(config: LanguageModelConfig) -> None:
    """Settings that must fit each other."""
    data, model, train = config.data, config.model, config.train
    check_shares(data.batch_size, train.host_devices, train.accumulate_steps)
    if model.backend == "cudnn" and model.model not in CUDNN_CELLS:
        raise ValueError(f"backend cudnn is for model lstm, got {model.model}: give backend auto")
    if model.tie_embeddings and model.model in WINDOWED:
        raise ValueError(f"tie_embeddings needs a recurrent model or a stack, got model {model.model}")
    if is_stack(model, model.model) and model.embedding_size not in (0, model.hidden_size):
        raise ValueError(
            f"a stack's embedding is as wide as its layers, got embedding_size {model.embedding_size} and "
            f"hidden_size {model.hidden_size}: leave embedding_size out"
        )


def _check_idle(config: LanguageModelConfig) -> None:
    """A setting that nothing reads is refused rather than ignored."""
    model = config.model
    windowed, stack = model.model in WINDOWED, is_stack(model, model.model)
    recurrent = not windowed and not stack
    names = layer_names(model, model.model, model.num_layers)
    inner = model.num_layers > 1 or not recurrent or model.output_dropout == AS_DROPOUT
    drops = max(model.dropout, model.input_dropout, model.output_dropout) > 0
    check_idle(
        (model, "tau", windowed, "models mlp and linear"),
        (model, "hidden_size", model.model != "linear", "models with hidden units"),
        (model, "num_layers", model.model not in ("linear", STACK), "models of equal layers"),
        (model, "last_size", recurrent and model.num_layers > 1, "recurrent models of several layers"),
        (model, "dropout", model.model != "linear", "models with hidden units"),
        (model, "dropout", inner, "layers below the last, where output_dropout is given"),
        (model, "dropout_kind", not windowed and drops, "a recurrent model's dropout"),
        (model, "precision", not windowed, "recurrent models and stacks"),
        (model, "recompute_steps", not windowed, "recurrent models and stacks"),
        (model, "backend", any(name in COMPILED_LAYERS for name in names), f"layers of {COMPILED}"),
        (config.data, "random_windows", config.data.partition == "sequential", "partition sequential"),
        *idle_mixers(model, model.model, names),
        *idle_regularisation(
            model,
            config.loss,
            names,
            embeds=stack or (recurrent and model.embedding_size > 0),
            recurrent=recurrent,
            stack=stack,
        ),
        *idle_ngram_features(model, not windowed),
        *idle_in_training(config.train),
        (config.course, "init_optimizer", bool(config.course.init_from), "init_from"),
    )
