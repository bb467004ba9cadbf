"""What is minimised beside the loss, against plain loops; and it is shared out and resumed as the loss is."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import scoring
from lmseq.config.language_model import ModelConfig
from lmseq.config.regularisation import LossConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import take_batch
from lmseq.layers import mean_minus_target
from lmseq.models.build import build_model
from lmseq.models.interface import token_trace
from lmseq.training.fit import fit, fit_members
from lmseq.training.gradient import StepInfo
from lmseq.training.job import Batches
from lmseq.training.loop import PlanStream
from lmseq.training.optimizer import optimizer_of
from lmseq.training.regularised import RegularisedLoss, objective_of
from lmseq.training.sharding import make_mesh, plan_sharding, training_sharding
from lmseq.training.state import init_training_jit, split_key
from lmseq.training.train_step import make_dispatch, window_loss
from tests.oracles import random_stream
from tests.scripts import figures

V, B, T, KEY = 5, 4, 6, jax.random.key(3)
STREAM = random_stream(300, vocab_size=V)
NOISY = ModelConfig(
    model="lstm",
    hidden_size=5,
    num_layers=2,
    embedding_size=3,
    tie_embeddings=True,
    dropout=0.2,
    input_dropout=0.1,
    output_dropout=0.3,
    embedding_dropout=0.2,
    weight_drop=0.4,
    dropout_kind="variational",
)
MODELS = {
    "lstm": NOISY,
    "gla": ModelConfig(model="gla", hidden_size=4, num_heads=2, dropout=0.2, input_dropout=0.1),
}
WEIGHTS = {"activation_penalty": 2.0, "temporal_penalty": 3.0, "label_smoothing": 0.1}
BATCHES = Batches(batch_size=8, num_steps=14, random_windows=True)
CONFIG = TrainConfig(
    learning_rate=0.05,
    schedule="constant",
    warmup_steps=0,
    num_train_steps=10,
    steps_per_dispatch=3,
    eval_every=5,
    checkpoint_every=5,
)


def begun(name: str = "lstm"):
    """A model, its parameters, a carry that has seen something, and windows of unequal lengths."""
    model = build_model(MODELS[name], V)
    params = jax.jit(model.init)(jax.random.key(1))
    tokens = jnp.asarray(STREAM)
    starts = jnp.arange(B, dtype=jnp.int32) * 50
    before = take_batch(tokens, starts + 20, jnp.full(B, T), T)
    carry = model.unroll(params, model.init_carry(params, B), before.inputs)[0]
    return model, params, carry, take_batch(tokens, starts, jnp.array([6, 4, 1, 0]), T)


def step_of(reset: bool) -> StepInfo:
    return StepInfo(jnp.array(0), KEY, jnp.array(reset))


def by_hand(model, params, carry, batch, reset: bool) -> float:
    """What is minimised, summed, token by token and row by row."""
    initial = model.init_carry(params, B)
    carry = initial if reset else carry
    _, trace = token_trace(model, params, carry, batch.inputs, batch.targets, KEY)
    first, total, smooth = model.readout(params, initial), 0.0, WEIGHTS["label_smoothing"]
    for b, length in enumerate(np.asarray(batch.mask).sum(axis=1)):
        h, raw = np.asarray(trace.outputs[b], np.float64), np.asarray(trace.raw[b], np.float64)
        number = length + (reset and length > 0)
        if reset and length:
            logs = np.asarray(first[b], np.float64)
            total -= (1 - smooth) * logs[batch.inputs[b, 0]] + smooth * logs.mean()
        for t in range(length):
            mean = float(trace.log_probs[b, t] + trace.spread[b, t])
            total -= (1 - smooth) * float(trace.log_probs[b, t]) + smooth * mean
        if length:
            total += number * WEIGHTS["activation_penalty"] * (h[:length] ** 2).mean()
        if length > 1:
            changes = [raw[t + 1] - raw[t] for t in range(length - 1)]
            total += number * WEIGHTS["temporal_penalty"] * (np.square(changes)).mean()
    return total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reset", [True, False])
def test_what_is_minimised_is_the_formula(name, reset):
    model, params, carry, batch = begun(name)
    losses = RegularisedLoss(**WEIGHTS)(model, params, carry, batch, step_of(reset))
    plain = window_loss(model, params, carry, batch, step_of(reset))
    np.testing.assert_allclose(losses.minimised.nll, by_hand(model, params, carry, batch, reset), rtol=1e-5)
    assert losses.minimised.count == plain.minimised.count == 11 + 3 * reset
    # What is reported, and the carry, are those of the loss alone.
    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(near, (losses.carry, losses.reported), (plain.carry, plain.reported))


def test_of_full_windows_they_are_the_means_of_all():
    """As published: mean over steps, rows and units of h^2, and of the squared changes."""
    model, params, carry, batch = begun()
    batch = batch._replace(mask=jnp.ones((B, T), bool))
    trace = token_trace(model, params, carry, batch.inputs, batch.targets, KEY)[1]
    plain = window_loss(model, params, carry, batch, step_of(False)).minimised
    for name, expected in {
        "activation_penalty": jnp.mean(trace.outputs**2),
        "temporal_penalty": jnp.mean((trace.raw[:, 1:] - trace.raw[:, :-1]) ** 2),
        "label_smoothing": -jnp.mean(trace.spread),
    }.items():
        losses = RegularisedLoss(**{name: 0.5})(model, params, carry, batch, step_of(False)).minimised
        added = (losses.nll - plain.nll) / losses.count
        np.testing.assert_allclose(added, 0.5 * expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("vocab_size", [7, 600])
def test_the_mean_less_the_target_is_that_of_log_probabilities(vocab_size):
    rng = np.random.default_rng(0)
    hidden, kernel, bias = (
        jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, 4), (4, vocab_size), (vocab_size,))
    )
    targets = jnp.asarray(rng.integers(vocab_size, size=(2, 3)), jnp.int32)
    weight = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)

    def whole(hidden, kernel, bias):
        log_probs = jax.nn.log_softmax(hidden @ kernel + bias[None, None])
        return log_probs.mean(axis=-1) - jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0]

    def slopes(function):
        def value(*args):
            return (weight * function(*args)).sum()

        return jax.jit(jax.value_and_grad(value, (0, 1, 2)))(hidden, kernel, bias)

    found = slopes(lambda *args: mean_minus_target(*args, targets))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, slopes(whole))


def test_nothing_asked_for_is_the_loss_alone():
    assert objective_of(LossConfig()) is window_loss
    assert objective_of(LossConfig(**WEIGHTS)) == RegularisedLoss(**WEIGHTS)


def test_a_model_without_a_hidden_state_is_refused():
    model = build_model(ModelConfig(model="mlp", hidden_size=4, tau=2), V)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="penalties and label smoothing are for recurrent models"):
        RegularisedLoss(0.1)(model, params, model.init_carry(params, B), begun()[3], step_of(False))


# A training with all of it


def evaluate(params, step):
    return {"valid_loss": scoring.mean_loss(build_model(NOISY, V), params, STREAM[:40])}


def trained(config=CONFIG, **more):
    model = build_model(NOISY, V)
    return fit(
        model,
        STREAM,
        config,
        batches=BATCHES,
        objective=RegularisedLoss(**WEIGHTS),
        evaluate=evaluate,
        **more,
    )


def test_it_goes_on_bit_for_bit(tmp_path):
    unbroken = trained()
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 2

    trained(workdir=tmp_path / "run", should_stop=stop)
    found = trained(workdir=tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, found.params, unbroken.params)
    assert [figures(one) for one in found.records] == [figures(one) for one in unbroken.records]


def test_each_step_is_of_its_own_length_at_a_rate_as_long():
    """Plain descent written out: gradients of the windows as they are, the carry that they end with."""
    model = build_model(ModelConfig(model="gru", hidden_size=4), V)
    config = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=0.5, clip_norm=0.0)
    config = dataclasses.replace(config, average="exponential", average_decay=0.5, seed=1)
    plan = PlanStream(lambda epoch: BATCHES.plan_of(STREAM.size, 1, epoch)).slice(0, CONFIG.num_train_steps)
    params = model.init(split_key(1).init)
    carry, mean, tokens, longest = model.init_carry(params, 8), params, jnp.asarray(STREAM), []

    def loss(params, carry, batch, reset):
        losses = window_loss(model, params, carry, batch, StepInfo(jnp.array(0), KEY, reset))
        return losses.minimised.nll / losses.minimised.count, losses.carry

    slope = jax.jit(jax.grad(loss, has_aux=True))
    for number, (starts, lengths, reset) in enumerate(zip(*plan, strict=True)):
        longest.append(int(lengths.max()))
        batch = take_batch(tokens, jnp.asarray(starts), jnp.asarray(lengths), longest[-1])
        grads, carry = slope(params, carry, batch, jnp.asarray(reset))
        rate = 0.5 * longest[-1] / BATCHES.num_steps
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, grads)
        share = max(1 / (number + 1), 0.5)
        mean = jax.tree.map(lambda m, p, share=share: m + share * (p - m), mean, params)
    assert len(set(longest)) > 2, longest
    found = fit(model, STREAM, config, batches=BATCHES)
    near = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(near, found.params, mean)


def test_members_of_one_program_have_windows_of_one_length():
    with pytest.raises(ValueError, match="train random_windows alone"):
        fit_members(build_model(NOISY, V), [STREAM], CONFIG, [0, 1], batches=BATCHES)


def test_several_devices_and_parts_train_as_one():
    """Six steps of windows of different lengths, with all noise and penalties, in shares of the batch."""
    model, train = build_model(NOISY, V), TrainConfig(optimizer="sgd", learning_rate=0.3, warmup_steps=1)
    batch_size, num_steps, lengths = BATCHES.sizes
    optimizer = optimizer_of(model, train, has_scale=True)
    plan = PlanStream(lambda epoch: BATCHES.plan_of(STREAM.size, 1, epoch)).slice(0, 6)
    assert plan.resets.sum() == 2 and len(set(plan.lengths.max(axis=1).tolist())) > 1
    ends = []
    for num_devices, num_parts, shard in ((1, 1, "batch"), (4, 2, "params")):
        mesh = make_mesh(jax.devices()[:num_devices])
        fresh = init_training_jit(jax.random.key(0), model, optimizer, batch_size)
        fresh = jax.device_put(fresh, training_sharding(mesh, fresh, shard))
        dispatch = make_dispatch(
            model,
            optimizer,
            num_steps,
            RegularisedLoss(**WEIGHTS),
            num_parts=num_parts,
            mesh=mesh,
            shard=shard,
            lengths=lengths,
        )
        placed = jax.device_put(plan, plan_sharding(mesh))
        ends.append(jax.device_get(dispatch(fresh, jnp.asarray(STREAM), placed, KEY)))
    near = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    for end in ends[1:]:
        jax.tree.map(near, end, ends[0])
