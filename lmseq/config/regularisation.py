"""Regularisation of language models: noise of training, and what is minimised beside the loss."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lmseq.config.kinds import KERNEL_CELLS, WITH_KERNEL
from lmseq.config.knobs import MOST_UNITS, Idle, at_least, below_one, knob, pick

AS_DROPOUT = -1.0  # a rate that is that of `dropout`


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Rates of what is dropped in training beside each layer's outputs."""

    embedding_dropout: float = knob(
        0.0, "rate at which words are dropped: their rows of the embedding are zero for a whole window"
    )
    input_dropout: float = knob(0.0, "rate at which entries of the embedded tokens are dropped in training")
    output_dropout: float = knob(AS_DROPOUT, "rate for the last recurrent layer's outputs; -1: as dropout")
    weight_drop: float = knob(
        0.0, f"rate at which recurrent weights of {WITH_KERNEL} are dropped, once a window (DropConnect)"
    )
    sampled_softmax: int = knob(
        0,
        "train by a softmax over the target and so many words drawn by rank, of which train_loss is a little "
        "too low; what is evaluated is exact; 0: over all words",
    )


@dataclass(frozen=True)
class LossConfig:
    """What is minimised beside the loss that is reported."""

    activation_penalty: float = knob(
        0.0, "times the mean square of the last layer's outputs, as dropped, is added to what is minimised"
    )
    temporal_penalty: float = knob(
        0.0, "times the mean square of the change of these outputs from step to step, before any is dropped"
    )
    label_smoothing: float = knob(
        0.0, "share of a target's probability that is spread over the vocabulary in what is minimised"
    )


def check_regularisation(noise: NoiseConfig, loss: LossConfig) -> None:
    """Raise ValueError for a rate that is not in [0, 1), and for a penalty below zero."""
    below_one(**pick(noise, "embedding_dropout", "input_dropout", "weight_drop"))
    if noise.output_dropout != AS_DROPOUT and not 0.0 <= noise.output_dropout < 1.0:
        raise ValueError(f"expected output_dropout in [0, 1), or -1, got {noise.output_dropout}")
    at_least(0, 1e6, **pick(loss, "activation_penalty", "temporal_penalty"))
    below_one(**pick(loss, "label_smoothing"))
    at_least(0, MOST_UNITS, **pick(noise, "sampled_softmax"))
    if noise.sampled_softmax and loss.label_smoothing:
        raise ValueError("label_smoothing needs all words and contradicts sampled_softmax: leave one out")


def idle_regularisation(
    noise: NoiseConfig,
    loss: LossConfig,
    names: Collection[str],
    *,
    embeds: bool,
    recurrent: bool,
    stack: bool,
) -> list[Idle]:
    """Which settings nothing reads, as `check_idle` takes them.

    names: those of the layers. embeds: whether tokens have an embedding. recurrent, stack: what the model is.
    """
    embedded = "recurrent models with an embedding_size, and stacks"
    weighted = recurrent and any(name in KERNEL_CELLS for name in names)
    hidden: tuple[Any, ...] = (recurrent or stack, "recurrent models and stacks")
    return [
        (noise, "embedding_dropout", embeds, embedded),
        (noise, "input_dropout", embeds, embedded),
        (noise, "output_dropout", recurrent, "recurrent models"),
        (noise, "sampled_softmax", *hidden),
        (noise, "weight_drop", weighted, f"models {WITH_KERNEL}"),
        *((loss, name, *hidden) for name in ("activation_penalty", "temporal_penalty", "label_smoothing")),
    ]
