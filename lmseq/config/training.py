"""A training: the optimiser, its schedule, and what is recorded and kept on the way."""

from dataclasses import dataclass, replace
from typing import Literal

from lmseq.config.knobs import Idle, at_least, below_one, knob, pick

USUAL_WARMUP = 50  # steps

Shard = Literal["batch", "params"]

ENDLESS = ("constant", "inverse")  # schedules whose learning rates do not depend on num_train_steps


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, and what is recorded on the way."""

    optimizer: Literal["sgd", "adam", "adamw"] = knob("adam", "optimiser")
    learning_rate: float = knob(6e-3, "peak learning rate")
    schedule: Literal["constant", "cosine", "inverse"] = knob(
        "cosine", "after the warm-up: constant; cosine to zero; or peak / (1 + step / decay_steps)"
    )
    warmup_steps: int = knob(
        -1, f"steps of linear warm-up from zero; -1: {USUAL_WARMUP}, or a tenth of no more steps than that"
    )
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
    accumulate_steps: int = knob(
        1, "parts that a batch is computed in, one after the other: less memory, the same gradient"
    )
    shard: Shard = knob(
        "batch",
        "several devices share a batch out; with params they also share out parameters and optimiser state, "
        "each of which is then on one of them",
    )


def check_train(train: TrainConfig) -> None:
    """Raise ValueError for a setting of the training that is out of range."""
    at_least(
        1,
        **pick(train, "num_train_steps", "steps_per_dispatch", "eval_every", "checkpoint_every"),
        **pick(train, "keep_checkpoints", "host_devices", "accumulate_steps"),
        **pick(train, "decay_steps"),
    )
    at_least(-1, **pick(train, "warmup_steps"))
    at_least(0, **pick(train, "seed", "momentum", "weight_decay"))
    at_least(0, **pick(train, "clip_norm", "target_loss"))
    below_one(**pick(train, "momentum"))
    if not 0.0 < train.learning_rate < 3.4e38:  # what a float32 holds
        raise ValueError(f"expected a positive learning_rate, got {train.learning_rate}")
    if train.warmup_steps >= train.num_train_steps and train.schedule == "cosine":
        raise ValueError(
            f"expected warmup_steps below num_train_steps={train.num_train_steps}, got {train.warmup_steps}"
        )


def num_warmup_steps(train: TrainConfig) -> int:
    """The steps of the warm-up: those that are set, or what suits the length of the training."""
    if train.warmup_steps >= 0:
        return train.warmup_steps
    # Only cosine needs an end beyond the warm-up.
    is_short = train.schedule == "cosine" and train.num_train_steps <= USUAL_WARMUP
    return train.num_train_steps // 10 if is_short else USUAL_WARMUP


def settled(train: TrainConfig) -> TrainConfig:
    """The same training with what depends on other settings filled in: the steps of the warm-up."""
    return replace(train, warmup_steps=num_warmup_steps(train))


def lengthened(train: TrainConfig, num_train_steps: int) -> TrainConfig:
    """The same training of so many steps in all; ValueError where its first steps would have been others."""
    at_least(1, extend=num_train_steps)
    if train.schedule not in ENDLESS:
        raise ValueError(
            f"extend is for schedules {' and '.join(ENDLESS)}: under {train.schedule} learning rates depend "
            "on num_train_steps, and a longer run is another from its first steps on; give "
            f"--num_train_steps={num_train_steps} and another --workdir"
        )
    return replace(train, num_train_steps=num_train_steps)


def check_shares(batch_size: int, num_devices: int, num_parts: int = 1) -> None:
    """Raise ValueError unless every device gets as many rows of a batch as the others, in equal parts."""
    if batch_size % (num_devices * num_parts):
        parts = f", in {num_parts} parts each," if num_parts > 1 else ""
        others = "accumulate_steps or host_devices" if num_parts > 1 else "host_devices"
        raise ValueError(
            f"expected a batch_size that {num_devices} devices{parts} divide, got {batch_size}: choose "
            f"another batch_size, or other {others}"
        )


def idle_in_training(train: TrainConfig) -> tuple[Idle, ...]:
    """The settings that only some optimisers and schedules read."""
    return (
        (train, "momentum", train.optimizer == "sgd", "optimizer sgd"),
        (train, "weight_decay", train.optimizer == "adamw", "optimizer adamw"),
        (train, "decay_steps", train.schedule == "inverse", "schedule inverse"),
    )
