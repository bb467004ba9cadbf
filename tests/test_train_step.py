"""The step: its loss written out, its gradient by differences, what it truncates, resets and masks."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.contract import gather_log_probs, scan_unroll
from lmseq.data.partition import Plan, epoch_plan, take_batch
from lmseq.models.build import build_model
from lmseq.scoring import sequence_log_probs
from lmseq.training.gradient import StepInfo, make_gradient
from lmseq.training.optimizer import make_optimizer
from lmseq.training.state import LoopState, TrainState, init_training, init_training_jit
from lmseq.training.train_step import (
    StepMetrics,
    first_non_finite,
    make_dispatch,
    train_step,
    window_loss,
)
from lmseq.types import Batch, NllTotals

VOCAB, N, B = 5, 4, 3
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, 60), jnp.int32)
KEY = jax.random.key(7)
SGD = make_optimizer(TrainConfig(optimizer="sgd", learning_rate=0.3, schedule="constant", warmup_steps=0))
MODELS = {
    "rnn": ModelConfig(model="rnn", hidden_size=3),
    "lstm": ModelConfig(model="lstm", hidden_size=5, embedding_size=3),
    "mlp": ModelConfig(model="mlp", hidden_size=6, tau=3, embedding_size=2),
}
TRAINED = {
    "gru with dropout": ModelConfig(model="gru", hidden_size=6, dropout=0.4),
    "lstm": MODELS["lstm"],
}


@cache
def make(name: str):
    model = build_model(MODELS[name], VOCAB)
    return model, jax.jit(model.init)(jax.random.key(1))


def batch_of(lengths=(4, 4, 4), starts=(0, 21, 40)) -> Batch:
    return take_batch(TOKENS, jnp.array(starts, jnp.int32), jnp.array(lengths, jnp.int32), N)


@partial(jax.jit, static_argnums=0)
def unrolled(model, params, inputs):
    return scan_unroll(model, params, model.init_carry(params, inputs.shape[0]), inputs)[0]


def carry_after(model, params, starts=(10, 30, 50)):
    """A carry that has seen something."""
    return unrolled(model, params, batch_of(starts=starts).inputs)


def mean_loss(*arguments):
    """What a step minimises: the sum over the count."""
    losses = window_loss(*arguments)
    return losses.minimised.nll / jnp.maximum(losses.minimised.count, 1), losses[1:]


@partial(jax.jit, static_argnums=0)
def window_loss_and_grad(*arguments):
    return jax.value_and_grad(mean_loss, argnums=1, has_aux=True)(*arguments)


def loss_and_grad(model, params, carry, batch, reset, key=KEY):
    (loss, (end, totals)), grad = window_loss_and_grad(
        model, params, carry, batch, StepInfo(jnp.array(0), key, jnp.array(reset))
    )
    return float(loss), grad, end, totals


@partial(jax.jit, static_argnums=0)
def step_of(model, loop_state, row):
    return train_step(make_gradient(model, window_loss, N), SGD, loop_state, TOKENS, row, KEY)


def assert_close(left, right, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


def norm_of_difference(left, right) -> float:
    return float(sum(np.abs(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True)))


# The loss and its gradient


def rnn_loss(params, hidden, batch: Batch, reset: bool) -> float:
    """Mean -log P of a one-hot tanh network, in float64 and without lmseq."""

    def minus_log_prob(hidden, token):
        logits = hidden @ params["output_kernel"] + params["output_bias"]
        return np.log(np.exp(logits).sum()) - logits[token]

    nll, count = 0.0, 0
    for b in range(len(batch.inputs)):
        h = np.zeros_like(hidden[b]) if reset else hidden[b]
        if reset and batch.mask[b, 0]:
            nll, count = nll + minus_log_prob(h, batch.inputs[b, 0]), count + 1
        for t in range(N):
            if not batch.mask[b, t]:
                break
            x = params["input_kernel_0"][batch.inputs[b, t]] + params["input_bias_0"]
            h = np.tanh(x + h @ params["recurrent_kernel_0"])
            nll, count = nll + minus_log_prob(h, batch.targets[b, t]), count + 1
    return nll / count


@pytest.mark.parametrize("reset", [False, True])
def test_gradient_is_the_slope_of_a_loss_in_numpy(reset):
    model, params = make("rnn")
    carry, batch = carry_after(model, params), batch_of(lengths=(4, 2, 0))
    loss, grad, _, _ = loss_and_grad(model, params, carry, batch, reset)
    exact = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    hidden, host = np.asarray(carry[0], np.float64), Batch(*map(np.asarray, batch))
    assert loss == pytest.approx(rnn_loss(exact, hidden, host, reset), rel=1e-6)
    for name, leaf in exact.items():
        for index in np.ndindex(leaf.shape):
            old, sides = leaf[index], []
            for leaf[index] in (old + 1e-5, old - 1e-5):
                sides.append(rnn_loss(exact, hidden, host, reset))
            leaf[index] = old
            slope = (sides[0] - sides[1]) / 2e-5
            assert float(grad[name][index]) == pytest.approx(slope, rel=1e-5, abs=1e-6), (name, index)


@partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def by_definition(params, model, carry, batch, reset):
    """The mean of -log P over `scan_unroll`, which is what the contract means."""
    blank = model.init_carry(params, B)
    begin = jax.tree.map(lambda new, old: jnp.where(reset, new, old), blank, carry)
    _, log_probs = scan_unroll(model, params, begin, batch.inputs)
    terms = batch.mask * gather_log_probs(log_probs, batch.targets)
    firsts = reset * batch.mask[:, 0] * gather_log_probs(model.readout(params, blank), batch.inputs[:, 0])
    return -(terms.sum() + firsts.sum()) / (batch.mask.sum() + (reset * batch.mask[:, 0]).sum())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_by_the_definition(name, reset):
    model, params = make(name)
    carry, batch = carry_after(model, params), batch_of(lengths=(4, 3, 1))
    expected, expected_grad = by_definition(params, model, carry, batch, reset)
    loss, grad, _, _ = loss_and_grad(model, params, carry, batch, reset)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert_close(grad, expected_grad)


# Truncation and resets


def test_no_gradient_through_the_carry():
    model, params = make("lstm")
    batch = batch_of()

    @jax.jit
    @jax.value_and_grad
    def two_windows(params, before):
        step = StepInfo(jnp.array(0), KEY, jnp.array(False))
        return mean_loss(model, params, unrolled(model, params, before), batch, step)[0]

    @jax.jit
    @jax.value_and_grad
    def untruncated(params, before):
        carry = unrolled(model, params, before)
        return -model.token_log_probs(params, carry, batch.inputs, batch.targets)[1].mean()

    here = batch_of(starts=(10, 30, 50)).inputs
    losses = []
    for before in (here, (here + 1) % VOCAB):
        loss, grad = two_windows(params, before)
        constant = loss_and_grad(model, params, unrolled(model, params, before), batch, False)
        assert float(loss) == pytest.approx(constant[0], rel=1e-6)
        assert_close(grad, constant[1])
        losses.append(float(loss))
    assert abs(losses[0] - losses[1]) > 1e-4  # what came before matters
    full_loss, full = untruncated(params, here)
    assert float(full_loss) == pytest.approx(losses[0], rel=1e-6)
    assert norm_of_difference(full, two_windows(params, here)[1]) > 1e-3  # and its gradient would differ


@pytest.mark.parametrize("name", MODELS)
def test_a_reset_forgets_and_counts_the_first_token(name):
    model, params = make(name)
    batch = batch_of()
    fresh = loss_and_grad(model, params, model.init_carry(params, B), batch, True)
    # Not even NaN comes through from what was carried.
    nonsense = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, jnp.nan if leaf.dtype == jnp.float32 else 1), fresh[2]
    )
    forgot = loss_and_grad(model, params, nonsense, batch, True)
    assert_close(forgot, fresh, rtol=0, atol=0)
    whole = jnp.concatenate([batch.inputs[:, :1], batch.targets], axis=1)
    log_probs = sequence_log_probs(model, params, whole)
    assert fresh[0] == pytest.approx(-float(log_probs.mean()), rel=1e-6)
    # The figures that are reported are over the targets alone.
    totals = fresh[3]
    assert int(totals.count) == B * N
    assert float(totals.nll) == pytest.approx(-float(log_probs[:, 1:].sum()), rel=1e-6)


# Masks


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_masked_does_not_count(name, reset):
    model, params = make(name)
    carry, lengths = carry_after(model, params), (4, 2, 3)
    batch = batch_of(lengths)
    loss, grad, _, totals = loss_and_grad(model, params, carry, batch, reset)
    assert int(totals.count) == sum(lengths)

    # Other tokens under the mask.
    junk = jnp.where(batch.mask, batch.inputs, (batch.inputs + 1) % VOCAB)
    other = Batch(junk, jnp.where(batch.mask, batch.targets, 0), batch.mask)
    assert (other.inputs != batch.inputs).any() and (other.targets != batch.targets).any()
    assert_close(loss_and_grad(model, params, carry, other, reset)[:2], (loss, grad), atol=1e-7)

    # More rows, of length 0.
    rows = [0, 1, 2, 0, 2]
    wide = batch_of((*lengths, 0, 0), (0, 21, 40, 5, 9))
    wide_carry = jax.tree.map(lambda leaf: leaf[jnp.array(rows)], carry)
    wide_loss, wide_grad, _, wide_totals = loss_and_grad(model, params, wide_carry, wide, reset)
    assert_close((wide_loss, wide_grad, wide_totals), (loss, grad, totals))


def test_a_batch_of_nothing_is_no_step():
    model, params = make("rnn")
    batch = batch_of((0, 0, 0))
    loss, grad, _, totals = loss_and_grad(model, params, model.init_carry(params, B), batch, True)
    assert loss == 0.0 and int(totals.count) == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grad))


# Steps and dispatches


@cache
def dispatch_of(model):
    return make_dispatch(model, SGD, N)


def begin(name: str, init=init_training_jit):
    model = build_model(TRAINED[name], VOCAB)
    return model, init(jax.random.key(3), model, SGD, B)


def plan_of(kind: str, num_rows: int) -> Plan:
    plans = [epoch_plan(kind, TOKENS.size, N, B, 0, epoch) for epoch in range(3)]
    return Plan(*(jnp.asarray(np.concatenate(leaves)[:num_rows]) for leaves in zip(*plans, strict=True)))


def row_of(plan: Plan, k: int) -> Plan:
    return Plan(plan.starts[k], plan.lengths[k], plan.resets[k])


@pytest.mark.parametrize("kind", ["random", "sequential"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_dispatch_is_its_steps(name, kind):
    model, loop_state = begin(name)
    plan = plan_of(kind, 8)
    one_by_one, metrics = loop_state, []
    for k in range(8):
        one_by_one, told = step_of(model, one_by_one, row_of(plan, k))
        metrics.append(told)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics)
    at_once = dispatch_of(model)(loop_state, TOKENS, plan, KEY)
    assert int(at_once[0].state.step) == 8
    assert_close(at_once, (one_by_one, stacked))


@pytest.mark.parametrize("step", [0, 5])
def test_dropout_depends_on_the_step_only(step):
    model, loop_state = begin("gru with dropout")
    params, row = loop_state.state.params, row_of(plan_of("sequential", 1), 0)

    def loss_with(key) -> float:
        batch = take_batch(TOKENS, row.starts, row.lengths, N)
        return float(loss_and_grad(model, params, loop_state.carry, batch, row.resets, key)[3].nll)

    state = TrainState(jnp.array(step, jnp.int32), params, loop_state.state.opt_state)
    _, told = step_of(model, LoopState(state, loop_state.carry), row)
    assert float(told.totals.nll) == pytest.approx(loss_with(jax.random.fold_in(KEY, step)), rel=1e-6)
    others = [loss_with(jax.random.fold_in(KEY, step + 1)), loss_with(KEY)]
    assert all(abs(float(told.totals.nll) - other) > 1e-3 for other in others)


def test_a_step_is_one_update_along_the_gradient():
    model, loop_state = begin("lstm")
    row = row_of(plan_of("sequential", 1), 0)
    batch = take_batch(TOKENS, row.starts, row.lengths, N)
    _, grad, end, _ = loss_and_grad(model, loop_state.state.params, loop_state.carry, batch, True)
    norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(grad)))
    after, told = step_of(model, loop_state, row)
    shrink = min(1.0, 1.0 / norm)  # clip_norm is 1
    expected = jax.tree.map(lambda p, g: p - 0.3 * shrink * g, loop_state.state.params, grad)
    assert_close(after.state.params, expected)
    assert float(told.grad_norm) == pytest.approx(norm, rel=1e-5)  # before it is clipped
    assert_close(after.carry, end)


@pytest.mark.parametrize("init", [init_training, init_training_jit])
def test_donation_takes_the_state_and_nothing_else(init):
    model, loop_state = begin("lstm", init)
    dispatch, plan = dispatch_of(model), plan_of("sequential", 8)
    # Not by device_get: on a CPU that is a view, and what is viewed is not donated but copied.
    copy = jax.jit(lambda loop_state: jax.tree.map(jnp.copy, loop_state))(loop_state)
    first, metrics = dispatch(loop_state, TOKENS, plan, KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(loop_state.state.params))
    # What is handed over the next time is still there, and gives the same.
    again, metrics_again = dispatch(copy, TOKENS, plan, KEY)
    assert_close((first, metrics), (again, metrics_again), rtol=0, atol=0)
    assert int(dispatch(first, TOKENS, plan, KEY)[0].state.step) == 16


# What is not finite


def metrics_of(nll, grad_norm) -> StepMetrics:
    return StepMetrics(NllTotals(np.array(nll), np.ones(len(nll), np.int32)), np.array(grad_norm))


@pytest.mark.parametrize(
    ("nll", "grad_norm", "step"),
    [
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], None),
        ([1.0, np.nan, 3.0], [1.0, 1.0, 1.0], 12),
        ([1.0, 2.0, 3.0], [1.0, 1.0, np.inf], 13),
        ([1.0, 2.0, -np.inf], [np.nan, 1.0, 1.0], 11),
    ],
)
def test_first_non_finite_names_the_step(nll, grad_norm, step):
    """After ten steps the next is the eleventh."""
    assert first_non_finite(metrics_of(nll, grad_norm), 10) == step
