"""What validation steers: the rate at a plateau and the mean of the weights, against plain loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig, check_train
from lmseq.models.build import build_model
from lmseq.training import ensemble
from lmseq.training.checkpoint import load_params
from lmseq.training.fit import fit
from lmseq.training.job import Batches
from lmseq.training.optimizer import make_optimizer, optimizer_of
from lmseq.training.validated import average_weights, mean_weights, observe, scale_at_plateaus
from tests.oracles import random_stream

losses = st.lists(st.sampled_from([1.0, 1.25, 1.5, 2.0, 3.0]), min_size=1, max_size=15)


@given(losses=losses, patience=st.integers(1, 4))
def test_a_plateau_lowers_the_rate(losses, patience):
    """Against the definition, told in a loop."""
    config = TrainConfig(plateau_patience=patience, decay_factor=0.25)
    steering = scale_at_plateaus()
    state, lowest, since, scale = steering.init({}), np.inf, 0, 1.0
    for loss in losses:
        state = observe(config, state, loss)
        since = 0 if loss < lowest else since + 1
        lowest = min(lowest, loss)
        if since == patience:
            since, scale = 0, scale / 4
        updates, state = steering.update({"w": jnp.full(2, 8.0)}, state)
        np.testing.assert_array_equal(updates["w"], 8.0 * scale)


@given(losses=losses, patience=st.integers(1, 4), data=st.data())
def test_a_triggered_average_against_every_step_s_weights(losses, patience, data):
    """It begins where a loss is above the lowest before the last n (Merity et al. 2018, algorithm 1)."""
    config = TrainConfig(average="triggered", average_patience=patience)
    averaging = average_weights(config)
    params = {"w": jnp.zeros(2)}
    state, begun, seen, t = averaging.init(params), False, [], 0
    for t, loss in enumerate(losses):
        updates = {"w": jnp.array(data.draw(st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=2)))}
        _, state = averaging.update(updates, state, params)
        params = optax.apply_updates(params, updates)
        seen = (
            [*seen, np.asarray(params["w"], np.float64)] if begun else [np.asarray(params["w"], np.float64)]
        )
        np.testing.assert_allclose(mean_weights(state)["w"], np.mean(seen, axis=0), rtol=1e-5, atol=1e-5)
        if t > patience and loss > min(losses[: t - patience]):
            begun = True
        state = observe(config, state, loss)
        assert bool(state.has_begun) == begun


def test_an_exponential_average_against_every_step_s_weights():
    config = TrainConfig(average="exponential", average_decay=0.8)
    averaging, rng = average_weights(config), np.random.default_rng(0)
    params = {"w": jnp.zeros(3)}
    state, mean = averaging.init(params), None
    for t in range(1, 12):
        updates = {"w": jnp.asarray(rng.normal(size=3), jnp.float32)}
        _, state = averaging.update(updates, state, params)
        params = optax.apply_updates(params, updates)
        share = max(1 / t, 0.2)
        mean = (
            np.asarray(params["w"]) if mean is None else (1 - share) * mean + share * np.asarray(params["w"])
        )
        np.testing.assert_allclose(mean_weights(state)["w"], mean, rtol=1e-5)


def test_without_either_the_state_is_the_optimisers():
    model, config = build_model(ModelConfig(hidden_size=4), 3), TrainConfig()
    params = model.init(jax.random.key(0))
    plain = make_optimizer(config).init(params)
    assert jax.tree.structure(optimizer_of(model, config).init(params)) == jax.tree.structure(plain)


# Trainings


STREAM = random_stream(600, vocab_size=3)
GRU = build_model(ModelConfig(hidden_size=6), 3)
BATCHES = Batches(batch_size=8, num_steps=5)
CONFIG = TrainConfig(
    learning_rate=0.02,
    warmup_steps=2,
    num_train_steps=30,
    steps_per_dispatch=2,
    eval_every=2,
    checkpoint_every=6,
)
STEERED = [
    {"plateau_patience": 1, "schedule": "constant"},
    {"average": "triggered", "average_patience": 1, "optimizer": "muon", "weight_decay": 0.01},
    {"average": "exponential", "average_decay": 0.7, "plateau_patience": 2, "optimizer": "lion"},
]


def evaluate(params, step):
    """A loss that falls and rises again, so that all is steered."""
    return {"valid_loss": float(abs(step - 9) + jnp.sum(params["output_bias"]))}


@pytest.mark.parametrize("changes", STEERED, ids=str)
def test_stopped_and_gone_on_with_it_ends_bit_for_bit(tmp_path, changes):
    config = dataclasses.replace(CONFIG, **changes)
    unbroken = fit(GRU, STREAM, config, batches=BATCHES, evaluate=evaluate)
    for stop in (3, 7, 14):
        fit(
            GRU,
            STREAM,
            config,
            batches=BATCHES,
            evaluate=evaluate,
            workdir=tmp_path,
            should_stop=iter([False] * (stop - 1) + [True]).__next__,
        )
    ended = fit(GRU, STREAM, config, batches=BATCHES, evaluate=evaluate, workdir=tmp_path)
    jax.tree.map(np.testing.assert_array_equal, ended.params, unbroken.params)
    assert [r.get("valid_loss") for r in ended.records] == [r.get("valid_loss") for r in unbroken.records]
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path, GRU).params, unbroken.params)


def test_the_mean_is_what_is_loaded_and_the_weights_stand_beside_it(tmp_path):
    config = dataclasses.replace(CONFIG, average="exponential", average_decay=0.9)
    plain = fit(GRU, STREAM, CONFIG, batches=BATCHES, evaluate=evaluate)
    found = fit(GRU, STREAM, config, batches=BATCHES, evaluate=evaluate, workdir=tmp_path)
    for which in ("latest", "latest.average"):
        jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path, GRU, which).params, found.params)
    # Averaging does not change the training.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        load_params(tmp_path, GRU, "latest.raw").params,
        plain.params,
    )
    last = found.records[-1]
    assert last["valid_loss"] == pytest.approx(evaluate(found.params, 30)["valid_loss"])
    assert last["raw_valid_loss"] == pytest.approx(evaluate(plain.params, 30)["valid_loss"], rel=1e-5)
    assert (
        load_params(tmp_path, GRU, "best").step
        == min(
            (record for record in found.records if "valid_loss" in record),
            key=lambda record: record["valid_loss"],
        )["step"]
    )


def test_an_average_that_there_is_not(tmp_path):
    fit(GRU, STREAM, CONFIG, batches=BATCHES, workdir=tmp_path)
    load_params(tmp_path, GRU, "latest.raw")
    with pytest.raises(ValueError, match="keeps no average of its weights"):
        load_params(tmp_path, GRU, "latest.average")
    with pytest.raises(ValueError, match="expected raw or average behind the checkpoint, got 'mean'"):
        load_params(tmp_path, GRU, "latest.mean")


def test_what_cannot_be_steered():
    with pytest.raises(ValueError, match="expected evaluate with plateau_patience"):
        fit(GRU, STREAM, dataclasses.replace(CONFIG, plateau_patience=1), batches=BATCHES)
    with pytest.raises(ValueError, match="neither plateau_patience nor average"):
        ensemble.check_members(ensemble.Members((0,), {}), dataclasses.replace(CONFIG, average="exponential"))
    for bad in (
        {"average_decay": 1.0},
        {"decay_factor": -0.1},
        {"plateau_patience": -1},
        {"average_patience": 0},
    ):
        with pytest.raises(ValueError, match=f"expected {next(iter(bad))} "):
            check_train(dataclasses.replace(CONFIG, **bad))
