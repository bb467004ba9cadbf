"""A training: the optimiser, its schedule, and what is recorded and kept on the way."""

from dataclasses import dataclass, replace
from typing import Literal

from lmseq.config.knobs import Idle, at_least, below_one, knob, pick

USUAL_WARMUP = 50  # steps

Shard = Literal["batch", "params"]

ENDLESS = ("constant", "inverse", "staircase")  # schedules that do not depend on num_train_steps


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, and what is recorded on the way."""

    optimizer: Literal["sgd", "adam", "adamw", "lion", "muon"] = knob(
        "adam", "optimiser; muon: for the matrices inside a net, adamw for all else"
    )
    learning_rate: float = knob(6e-3, "peak learning rate")
    schedule: Literal["constant", "cosine", "inverse", "staircase", "one_cycle", "stable"] = knob(
        "cosine",
        "after the warm-up: constant; cosine to zero; inverse, peak / (1 + step / decay_steps); staircase, "
        "times decay_factor every decay_steps from decay_begin on; one_cycle, from a 25th up and down to "
        "almost nothing; stable, constant, then down to zero over the last cooldown of the steps",
    )
    warmup_steps: int = knob(
        -1,
        f"steps of linear warm-up from zero; -1: {USUAL_WARMUP}, or a tenth of no more steps than that; of "
        "one_cycle three tenths",
    )
    decay_steps: int = knob(1000, "time scale of the schedule inverse, or length of a stair, in steps")
    decay_begin: int = knob(0, "steps after the warm-up before the schedule staircase begins to fall")
    decay_factor: float = knob(0.5, "of the rate at each stair, and where validation stops improving")
    cooldown: float = knob(0.2, "share of the steps over which the schedule stable falls to zero")
    plateau_patience: int = knob(
        0,
        "evaluations in a row without a new lowest validation loss that multiply the rate by decay_factor; "
        "0: never",
    )
    average: Literal["none", "exponential", "triggered"] = knob(
        "none",
        "mean of the weights over steps, evaluated and saved beside them: exponential, of the latest, or "
        "triggered, of all since validation stopped improving",
    )
    average_decay: float = knob(0.999, "weight of the mean before, at each step, in the exponential average")
    average_patience: int = knob(
        5, "evaluations that must all be below the present one for the triggered average to begin"
    )
    momentum: float = knob(0.0, "momentum of sgd")
    weight_decay: float = knob(0.0, "decoupled weight decay of adamw, lion and muon")
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
        **pick(train, "decay_steps", "average_patience"),
    )
    at_least(-1, **pick(train, "warmup_steps"))
    at_least(0, **pick(train, "seed", "momentum", "weight_decay"))
    at_least(0, **pick(train, "clip_norm", "target_loss", "decay_begin", "plateau_patience"))
    below_one(**pick(train, "momentum", "average_decay", "decay_factor", "cooldown"))
    if not 0.0 < train.learning_rate < 3.4e38:  # what a float32 holds
        raise ValueError(f"expected a positive learning_rate, got {train.learning_rate}")
    if train.warmup_steps >= train.num_train_steps and train.schedule not in ENDLESS:
        raise ValueError(
            f"expected warmup_steps below num_train_steps={train.num_train_steps}, got {train.warmup_steps}"
        )


def num_warmup_steps(train: TrainConfig) -> int:
    """The steps of the warm-up: those that are set, or what suits the length of the training."""
    if train.warmup_steps >= 0:
        return train.warmup_steps
    if train.schedule == "one_cycle":
        return 3 * train.num_train_steps // 10
    # These need an end beyond the warm-up.
    is_short = train.schedule not in ENDLESS and train.num_train_steps <= USUAL_WARMUP
    return train.num_train_steps // 10 if is_short else USUAL_WARMUP


def settled(train: TrainConfig) -> TrainConfig:
    """The same training with what depends on other settings filled in: the steps of the warm-up."""
    return replace(train, warmup_steps=num_warmup_steps(train))


def lengthened(train: TrainConfig, num_train_steps: int) -> TrainConfig:
    """The same training of so many steps in all; ValueError where its first steps would have been others."""
    at_least(1, extend=num_train_steps)
    if train.schedule not in ENDLESS:
        raise ValueError(
            f"extend is for schedules {', '.join(ENDLESS)}: under {train.schedule} learning rates depend "
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
    schedule, average = train.schedule, train.average
    falls = schedule == "staircase" or train.plateau_patience > 0
    decays = train.optimizer in ("adamw", "lion", "muon")
    return (
        (train, "momentum", train.optimizer == "sgd", "optimizer sgd"),
        (train, "weight_decay", decays, "optimizer adamw, lion or muon"),
        (train, "decay_steps", schedule in ("inverse", "staircase"), "schedule inverse or staircase"),
        (train, "decay_begin", schedule == "staircase", "schedule staircase"),
        (train, "decay_factor", falls, "schedule staircase or plateau_patience"),
        (train, "cooldown", schedule == "stable", "schedule stable"),
        (train, "average_decay", average == "exponential", "average exponential"),
        (train, "average_patience", average == "triggered", "average triggered"),
    )
