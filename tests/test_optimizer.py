"""Schedules against closed forms; optimisers against a few lines of NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.training import TrainConfig, num_warmup_steps
from lmseq.training.optimizer import make_optimizer, make_schedule

NUM_STEPS = 200
PLAIN = TrainConfig(
    optimizer="sgd", learning_rate=0.1, schedule="constant", warmup_steps=0, clip_norm=0.0, num_train_steps=50
)


def closed_form(config: TrainConfig, step: int) -> float:
    """The rate of optimiser step `step`, counted from 0."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    t = step - warmup
    match config.schedule:
        case "constant":
            return peak
        case "cosine":
            return peak * 0.5 * (1.0 + np.cos(np.pi * min(t / (config.num_train_steps - warmup), 1.0)))
        case "inverse":
            return peak / (1.0 + t / config.decay_steps)
        case "staircase":
            stairs = max(t - config.decay_begin, 0) // config.decay_steps
            return peak * config.decay_factor**stairs
        case "stable":
            rest = config.num_train_steps - config.warmup_steps
            falling = min(max(1, round(config.cooldown * config.num_train_steps)), rest)
            return peak * min(1.0, max(0.0, (rest - t) / falling))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse", "staircase", "stable"])
@given(
    peak=st.floats(1e-5, 10.0),
    warmup=st.integers(0, 80),
    decay=st.integers(1, 300),
    after_warmup=st.integers(1, 120),
)
def test_schedule_at_every_step(schedule, peak, warmup, decay, after_warmup):
    config = TrainConfig(
        learning_rate=peak,
        schedule=schedule,
        warmup_steps=warmup,
        decay_steps=decay,
        decay_begin=warmup // 2,
        num_train_steps=warmup + after_warmup,
    )
    rates = np.broadcast_to(make_schedule(config)(jnp.arange(NUM_STEPS)), (NUM_STEPS,))
    expected = [closed_form(config, step) for step in range(NUM_STEPS)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-6 * peak)
    assert rates[0] > 0.0  # no step is spent on nothing


def test_cosine_ends_at_zero_and_not_before():
    config = TrainConfig(schedule="cosine", warmup_steps=5, num_train_steps=40)
    schedule = make_schedule(config)
    assert float(schedule(39)) > 0.0 and abs(float(schedule(40))) < 1e-9


def test_one_cycle_rises_and_falls():
    """From a 25th of the peak to the peak at the end of the warm-up, and to almost nothing."""
    config = TrainConfig(schedule="one_cycle", warmup_steps=30, num_train_steps=100, learning_rate=0.5)
    rates = np.array([float(make_schedule(config)(step)) for step in range(101)])
    np.testing.assert_allclose(rates[[0, 15, 30, 100]], [0.02, 0.26, 0.5, 0.5 / 250_000], rtol=1e-4)
    assert (np.diff(rates[:31]) > 0).all() and (np.diff(rates[30:]) < 0).all()
    assert num_warmup_steps(dataclasses.replace(config, warmup_steps=-1)) == 30


PARAMS = {"a": np.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": np.array([0.5, -2.0])}
RNG = np.random.default_rng(0)
GRADS = [{name: RNG.normal(size=leaf.shape) for name, leaf in PARAMS.items()} for _ in range(6)]


def run(config: TrainConfig, grads=GRADS):
    """Parameters after each step under the optimiser that the config names.

    In float64: in float32 Adam's 1 - 0.999^t alone is off by 6e-5 of itself.
    """
    optimizer = make_optimizer(config)
    with jax.enable_x64(True):
        params = {name: jnp.asarray(leaf) for name, leaf in PARAMS.items()}
        state, history = optimizer.init(params), []
        for grad in grads:
            updates, state = optimizer.update(grad, state, params)
            params = optax.apply_updates(params, updates)
            history.append({name: np.asarray(leaf) for name, leaf in params.items()})
    return history


def muon_update(momentum, grad, count):
    """Five steps of Newton and Schulz from a momentum that looks ahead, scaled to Adam's size."""
    ahead = 0.95 * momentum / (1 - 0.95 ** (count + 1)) + 0.05 * grad / (1 - 0.95**count)
    x = ahead / np.linalg.norm(ahead)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return 0.2 * np.sqrt(max(x.shape)) * x


def by_hand(config: TrainConfig, grads=GRADS):
    """The same in float64: Polyak's momentum; Kingma and Ba's Adam; Loshchilov and Hutter's decay."""
    params = {name: leaf.copy() for name, leaf in PARAMS.items()}
    first = {name: np.zeros_like(leaf) for name, leaf in PARAMS.items()}
    second = {name: np.zeros_like(leaf) for name, leaf in PARAMS.items()}
    history = []
    for step, grad in enumerate(grads):
        rate = closed_form(config, step)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in grad.values()))
        scale = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for name, leaf in params.items():
            g = grad[name] * scale
            if config.optimizer == "sgd":
                first[name] = config.momentum * first[name] + g
                leaf -= rate * first[name]
                continue
            if config.optimizer == "lion":  # Chen et al. 2023, algorithm 2
                update = np.sign(0.9 * first[name] + 0.1 * g)
                first[name] = 0.99 * first[name] + 0.01 * g
                leaf -= rate * (update + config.weight_decay * leaf)
                continue
            if config.optimizer == "muon" and name == "a":
                first[name] = 0.95 * first[name] + 0.05 * g
                leaf -= rate * (muon_update(first[name], g, step + 1) + config.weight_decay * leaf)
                continue
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            mean = first[name] / (1.0 - 0.9 ** (step + 1))
            if config.optimizer == "muon":  # whose Adam looks ahead (Dozat 2016)
                mean = 0.9 * first[name] / (1.0 - 0.9 ** (step + 2)) + 0.1 * g / (1.0 - 0.9 ** (step + 1))
            variance = second[name] / (1.0 - 0.999 ** (step + 1))
            decay = config.weight_decay * leaf if config.optimizer in ("adamw", "muon") else 0.0
            leaf -= rate * (mean / (np.sqrt(variance) + 1e-8) + decay)
        history.append({name: leaf.copy() for name, leaf in params.items()})
    return history


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        for name in PARAMS:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "clip_norm": 0.7},
        {"schedule": "inverse", "warmup_steps": 3, "decay_steps": 2},
        {"optimizer": "adam"},
        {"optimizer": "adam", "clip_norm": 0.7, "schedule": "cosine", "warmup_steps": 2},
        {"optimizer": "adamw", "weight_decay": 0.3},
        {"optimizer": "lion", "weight_decay": 0.3},
        {"optimizer": "muon", "weight_decay": 0.3},
        {"optimizer": "adamw", "weight_decay": 0.3, "clip_norm": 0.7, "schedule": "inverse"},
    ],
    ids=str,
)
def test_optimizer_equals_numpy(changes):
    config = dataclasses.replace(PLAIN, **changes)
    assert_same(run(config), by_hand(config))


@pytest.mark.parametrize("factor", [0.01, 0.99, 1.01, 100.0])
def test_clipping_is_by_the_global_norm(factor):
    """Below the norm nothing happens; above it, all leaves shrink by one factor, to the norm in all."""
    clip = 2.5
    norm = np.sqrt(sum((leaf**2).sum() for leaf in GRADS[0].values()))
    grads = {name: leaf * (factor * clip / norm) for name, leaf in GRADS[0].items()}
    after = run(dataclasses.replace(PLAIN, learning_rate=1.0, clip_norm=clip), [grads])[0]
    moved = {name: PARAMS[name] - after[name] for name in PARAMS}
    shrink = min(1.0, 1.0 / factor)
    for name in PARAMS:
        np.testing.assert_allclose(moved[name], grads[name] * shrink, rtol=1e-5, atol=1e-6)


def test_clip_norm_zero_means_never():
    huge = [{name: leaf * 1e6 for name, leaf in GRADS[0].items()}]
    after = run(PLAIN, huge)[0]
    for name in PARAMS:
        np.testing.assert_allclose(after[name], PARAMS[name] - 0.1 * huge[0][name], rtol=1e-5)


@pytest.mark.parametrize("field", ["optimizer", "schedule"])
def test_unknown_names(field):
    config = TrainConfig()
    object.__setattr__(config, field, "nonesuch")  # past the check that only tests have
    with pytest.raises(ValueError, match=f"expected an? {field} .*got 'nonesuch'"):
        make_optimizer(config)
