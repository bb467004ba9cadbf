"""Every model against the definition of what it computes."""

import dataclasses
import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import contract, scoring
from lmseq.config.language_model import ModelConfig
from lmseq.models.build import build_model
from lmseq.models.interface import count_parameters
from tests.oracles import EVERY, KINDS, all_strings, small

V = 3
every_model = pytest.mark.parametrize("kind", EVERY)
every_module = pytest.mark.parametrize("kind", list(KINDS))


@partial(jax.jit, static_argnums=0)
def unroll(model, params, carry, xs, key=None):
    return model.unroll(params, carry, xs, training=key is not None, key=key)


@partial(jax.jit, static_argnums=0)
def scan_unroll(model, params, carry, xs):
    return contract.scan_unroll(model, params, carry, xs)


@partial(jax.jit, static_argnums=0)
def token_log_probs(model, params, carry, xs, targets):
    return model.token_log_probs(params, carry, xs, targets)


@partial(jax.jit, static_argnums=0)
def update(model, params, carry, x):
    return model.update(params, carry, x)


def tokens(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), shape, 0, V)


def later_carry(model, params, batch_size: int):
    """A carry that has seen something, and not the same in every row."""
    carry = model.init_carry(params, batch_size)
    for t in range(4):
        carry = update(model, params, carry, tokens(batch_size, seed=t))
    return carry


def assert_close(left, right, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right)


@every_model
def test_the_probabilities_of_all_strings_sum_to_one(kind):
    model, params = small(kind)
    log_probs = jax.jit(scoring.sequence_log_probs, static_argnums=0)(
        model, params, jnp.asarray(all_strings(V, 5))
    )
    assert abs(np.exp(np.asarray(log_probs, np.float64).sum(axis=1)).sum() - 1.0) < 1e-5


@every_model
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("fresh", [True, False])
def test_unroll_is_the_scan_of_update_and_readout(kind, batch_size, fresh):
    model, params = small(kind)
    carry = model.init_carry(params, batch_size) if fresh else later_carry(model, params, batch_size)
    xs, targets = tokens(batch_size, 7), tokens(batch_size, 7, seed=1)
    expected = scan_unroll(model, params, carry, xs)
    assert_close(unroll(model, params, carry, xs), expected)
    end, log_probs = token_log_probs(model, params, carry, xs, targets)
    assert_close((end, log_probs), (expected[0], contract.gather_log_probs(expected[1], targets)))


@every_model
def test_unroll_in_two_halves(kind):
    model, params = small(kind)
    carry, xs = later_carry(model, params, 3), tokens(3, 7)
    middle, first = unroll(model, params, carry, xs[:, :4])
    end, second = unroll(model, params, middle, xs[:, 4:])
    assert_close((end, jnp.concatenate([first, second], axis=1)), unroll(model, params, carry, xs))


@every_module
def test_the_gradient_is_that_of_the_scan(kind):
    model, params = small(kind)
    carry, xs, weights = (
        later_carry(model, params, 2),
        tokens(2, 6),
        jax.random.normal(jax.random.key(5), (2, 6, V)),
    )

    def gradient(unroll):
        return jax.jit(jax.grad(lambda params: jnp.sum(weights * unroll(model, params, carry, xs)[1])))(
            params
        )

    scanned = gradient(scan_unroll)
    assert_close(gradient(unroll), scanned, 2e-5)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(scanned))


@every_model
def test_rows_do_not_see_each_other(kind):
    model, params = small(kind)
    carry, xs = later_carry(model, params, 3), tokens(3, 6)
    changed = xs.at[1].set((xs[1] + 1) % V)
    before, after = unroll(model, params, carry, xs)[1], unroll(model, params, carry, changed)[1]
    np.testing.assert_array_equal(before[jnp.array([0, 2])], after[jnp.array([0, 2])])
    assert np.abs(before[1] - after[1]).max() > 1e-4


@every_module
def test_predictions_see_the_past_and_not_the_future(kind):
    model, params = small(kind)
    carry, xs = model.init_carry(params, 1), tokens(1, 8)
    changed = xs.at[0, 5].set((xs[0, 5] + 1) % V)
    before, after = unroll(model, params, carry, xs)[1], unroll(model, params, carry, changed)[1]
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[0, 5:] - after[0, 5:]).max(axis=1).min() > 1e-6


def test_the_mlp_forgets_what_is_older_than_tau():
    model, params = small("mlp")
    xs = tokens(1, 9)
    changed = xs.at[0, 2].set((xs[0, 2] + 1) % V)
    carry = model.init_carry(params, 1)
    before, after = unroll(model, params, carry, xs)[1], unroll(model, params, carry, changed)[1]
    differs = np.abs(before - after).max(axis=(0, 2)) > 0
    assert differs.tolist() == [False, False, True, True, True, False, False, False, False]


def test_lstm_equals_flax():
    model, params = small("lstm")
    size = KINDS["lstm"].hidden_size
    carry = later_carry(model, params, 3)
    x = tokens(3, seed=9)
    inputs = np.split(params["input_kernel_0"], 4, axis=1)
    recurrent = np.split(params["recurrent_kernel_0"], 4, axis=1)
    biases = np.split(params["input_bias_0"], 4)
    theirs = {}
    for gate, kernel, state_kernel, bias in zip("ifgo", inputs, recurrent, biases, strict=True):
        theirs[f"i{gate}"] = {"kernel": kernel}
        theirs[f"h{gate}"] = {"kernel": state_kernel, "bias": bias}
    (cell, hidden), _ = nn.OptimizedLSTMCell(size).apply(
        {"params": theirs}, (carry[0].cell, carry[0].hidden), jax.nn.one_hot(x, V)
    )
    ours = model.update(params, carry, x)[0]
    assert_close((ours.cell, ours.hidden), (cell, hidden), 1e-6)


def test_gru_equals_flax():
    model, params = small("gru")
    size = KINDS["gru"].hidden_size
    carry, x = later_carry(model, params, 3), tokens(3, seed=9)
    inputs = np.split(params["input_kernel_0"], 3, axis=1)
    recurrent = np.split(params["recurrent_kernel_0"], 3, axis=1)
    biases = np.split(params["input_bias_0"], 3)
    theirs = {}
    for gate, kernel, state_kernel, bias in zip("rzn", inputs, recurrent, biases, strict=True):
        theirs[f"i{gate}"] = {"kernel": kernel, "bias": bias}
        theirs[f"h{gate}"] = {"kernel": state_kernel}
    theirs["hn"]["bias"] = params["recurrent_bias_0"]
    expected, _ = nn.GRUCell(size).apply({"params": theirs}, carry[0], jax.nn.one_hot(x, V))
    assert_close(model.update(params, carry, x)[0], expected, 1e-6)


def dropping(kind: str, **fields):
    config = dataclasses.replace(KINDS[kind], dropout=0.5, **fields)
    return build_model(config, V), small(kind)[1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "linear"])  # which has nothing to drop
def test_dropout_is_for_training(kind):
    model, params = dropping(kind)
    carry, xs = model.init_carry(params, 2), tokens(2, 6)
    quiet = unroll(model, params, carry, xs)[1]
    np.testing.assert_array_equal(quiet, unroll(small(kind)[0], params, carry, xs)[1])
    noisy = [unroll(model, params, carry, xs, jax.random.key(seed))[1] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 1e-3 and np.abs(noisy[0] - quiet).max() > 1e-3


@pytest.mark.parametrize("dropout_kind, constant", [("fresh", False), ("variational", True)])
def test_a_variational_mask_stays_for_all_steps(dropout_kind, constant):
    """With a readout of each unit by itself, a unit that is dropped shows as the bias alone."""
    config = ModelConfig(model="gru", hidden_size=8, dropout=0.5, dropout_kind=dropout_kind)
    model = build_model(config, 8)
    params = model.init(jax.random.key(0)) | {"output_kernel": 100.0 * jnp.eye(8)}
    xs = jax.random.randint(jax.random.key(1), (2, 20), 0, 8)
    log_probs = unroll(model, params, model.init_carry(params, 2), xs, jax.random.key(2))[1]
    outputs = unroll(model, params, model.init_carry(params, 2), xs)[1]
    # Differences of log-probabilities are differences of logits; a dropped pair has the difference 0.
    both_dropped = (np.abs(log_probs[:, :, :-1] - log_probs[:, :, 1:]) == 0) & (
        np.abs(outputs[:, :, :-1] - outputs[:, :, 1:]) > 0
    )
    assert both_dropped.any()
    assert bool((both_dropped == both_dropped[:, 3:4]).all()) == constant


def test_dropout_keeps_the_expectation():
    model, _ = dropping("gru", hidden_size=5)
    hidden = jnp.ones((1, 1, 20_000))
    module = model.module
    dropped = module._drop(hidden, 0, jax.random.key(0))
    kept = np.asarray(dropped[0, 0])
    assert set(np.unique(kept)) == {0.0, 2.0}
    assert abs(kept.mean() - 1.0) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("rnn", V * 5 + 5 + 5 * 5 + 5 * V + V),
        ("gru", V * 15 + 15 + 5 * 15 + 5 + 5 * V + V),
        ("lstm", V * 20 + 20 + 5 * 20 + 5 * V + V),
        ("mingru", V * 10 + 10 + 5 * V + V),
        ("minlstm", V * 15 + 15 + 5 * V + V),
        ("mlp", (V + 1) * 4 + 12 * 6 + 6 + 6 * 6 + 6 + 6 * V + V),
        ("gru, two layers, embedding", V * 2 + (2 + 5 + 5 + 5) * 15 + 2 * (15 + 5) + 5 * V + V),
        ("lstm, two layers", (V + 4) * 16 + 16 + (4 + 3) * 12 + 12 + 3 * V + V),
        ("minlstm, two layers", V * 7 + (7 + 4) * 12 + 2 * 12 + 4 * V + V),
        ("gru, tied", V * 6 + 6 * 18 + 18 + 6 * 18 + 6 + V),
    ],
)
def test_the_number_of_parameters(kind, expected):
    assert count_parameters(small(kind)[1]) == expected


def test_the_forget_gate_starts_open():
    params = build_model(ModelConfig(model="lstm", hidden_size=4), V).init(jax.random.key(0))
    assert params["input_bias_0"].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


@every_module
def test_models_are_equal_when_their_configs_are(kind):
    config = KINDS[kind]
    assert build_model(config, V) == build_model(config, V)
    assert hash(build_model(config, V)) == hash(build_model(config, V))
    assert build_model(config, V) != build_model(config, V + 1)
    assert isinstance(build_model(config, V), contract.Model)


def test_the_recurrent_weights_start_orthogonal_gate_by_gate():
    params = build_model(ModelConfig(model="gru", hidden_size=5), V).init(jax.random.key(0))
    blocks = np.split(np.asarray(params["recurrent_kernel_0"]), 3, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(5), atol=1e-5)
    assert np.abs(blocks[0] - blocks[1]).max() > 0.1


def test_tied_embeddings_are_read_out_with():
    """A carry fixed by hand leaves only the readout: its logits are h E' + b."""
    model, params = small("gru, tied")
    assert "output_kernel" not in params
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)), jnp.float32)
    embedding, bias = (np.asarray(params[name], np.float64) for name in ("embedding", "output_bias"))
    logits = np.asarray(hidden) @ embedding.T + bias
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert_close(model.readout(params, (hidden,)), expected)


def test_the_mlp_tells_nothing_yet_from_every_token():
    model, params = small("mlp")
    changed = params | {"embedding": params["embedding"].at[V].add(1.0)}
    carry, full = model.init_carry(params, 1), tokens(1, 3)
    before, after = (unroll(model, p, carry, full)[1][0] for p in (params, changed))
    assert np.abs(model.readout(params, carry) - model.readout(changed, carry)).max() > 1e-3
    assert (np.abs(before - after).max(axis=1) > 0).tolist() == [True, True, False]


def test_masks_of_rows_differ_and_variational_ones_stay():
    """Saturated units and a one-to-one readout: a logit is 2 c where the unit is kept and 0 where not."""
    for kind in ("fresh", "variational"):
        model = build_model(ModelConfig(model="rnn", hidden_size=16, dropout=0.5, dropout_kind=kind), 16)
        params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
        params |= {"input_bias_0": jnp.full(16, 20.0), "output_kernel": jnp.eye(16)}
        carry, xs = model.init_carry(params, 2), jnp.zeros((2, 20), jnp.int32)
        log_probs = unroll(model, params, carry, xs, jax.random.key(1))[1]
        kept = np.asarray(log_probs - log_probs.min(axis=-1, keepdims=True))
        np.testing.assert_allclose(np.unique(kept.round(4)), [0.0, 2.0])
        masks = kept > 1
        assert (masks == masks[:, :1]).all() == (kind == "variational")
        assert (masks[0, 0] != masks[1, 0]).any()


@pytest.mark.parametrize("kind", ["rnn", "mlp"])
def test_each_layer_drops_its_own_units(kind):
    """Unit i of layer 2 repeats unit i of layer 1, so one shared mask would leave no unit half lost."""
    extra = {"embedding_size": 1, "tau": 1} if kind == "mlp" else {}
    model = build_model(ModelConfig(model=kind, hidden_size=64, num_layers=2, dropout=0.5, **extra), 64)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    first, second = ("bias_0", "kernel_1") if kind == "mlp" else ("input_bias_0", "input_kernel_1")
    params |= {first: jnp.full(64, 20.0), second: 20.0 * jnp.eye(64), "output_kernel": jnp.eye(64)}
    carry, xs = model.init_carry(params, 1), jnp.zeros((1, 200), jnp.int32)
    log_probs = unroll(model, params, carry, xs, jax.random.key(3))[1]
    kept = np.asarray(log_probs - log_probs.min(axis=-1, keepdims=True))[0] > 1
    # Both layers keep a unit in 1/4 of all cases (one shared mask: 1/2), afresh at each step.
    assert abs(kept.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    assert (kept != kept[:1]).any()


def cells_and_cuts():
    """Every cell, and every cut of one of them; the other pairs are slow tests."""
    for cell, cut in itertools.product(("rnn", "gru", "lstm", "minlstm"), ((11, 4), (12, 4), (3, 4), (8, 1))):
        again = cell != "gru" and cut != (11, 4)
        yield pytest.param(cell, *cut, marks=pytest.mark.slow if again else ())


@pytest.mark.parametrize("cell, time, recompute_steps", list(cells_and_cuts()))
def test_what_is_computed_anew_is_what_was_not_kept(cell, time, recompute_steps):
    """Loss, carry and gradient of a window in pieces are those of the window, also under one mask for all."""
    whole = ModelConfig(
        model=cell, hidden_size=5, num_layers=2, dropout=0.4, dropout_kind="variational", embedding_size=3
    )
    pieces = dataclasses.replace(whole, recompute_steps=recompute_steps)
    xs, targets = tokens(2, time), tokens(2, time, seed=1)

    def loss(params, model):
        carry, log_probs = model.token_log_probs(
            params, model.init_carry(params, 2), xs, targets, training=True, key=jax.random.key(3)
        )
        return log_probs.sum() + sum(leaf.sum() for leaf in jax.tree.leaves(carry))

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    params = build_model(whole, V).init(jax.random.key(4))
    assert_close(gradient(params, build_model(pieces, V)), gradient(params, build_model(whole, V)))


def test_recomputing_takes_less_memory():
    def planned(recompute_steps):
        model = build_model(ModelConfig(hidden_size=32, recompute_steps=recompute_steps), V)
        params = model.init(jax.random.key(0))
        xs = jnp.zeros((8, 512), jnp.int32)

        def loss(params):
            carry = model.init_carry(params, 8)
            return model.token_log_probs(params, carry, xs, xs, training=True)[1].sum()

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert planned(32) < 0.4 * planned(0)
