"""Noise of training against plain loops over masks that are drawn here from the same keys."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import contract
from lmseq.config.language_model import ModelConfig
from lmseq.config.mixers import is_stack
from lmseq.models.build import build_model
from lmseq.models.interface import token_trace
from lmseq.models.noisy import drop_weights
from lmseq.noise import EMBEDDING, INPUTS, WEIGHTS, share_key
from lmseq.recurrence.cells import cell_named
from lmseq.recurrence.cells.cell import Recurrent

V, B, T, KEY = 7, 4, 6, jax.random.key(5)
XS = jax.random.randint(jax.random.key(0), (B, T), 0, V)
TARGETS = jax.random.randint(jax.random.key(1), (B, T), 0, V)
ALL = {
    "dropout": 0.3,
    "output_dropout": 0.4,
    "input_dropout": 0.2,
    "embedding_dropout": 0.3,
    "weight_drop": 0.5,
}


def made(**settings):
    """A model, and parameters far from where training starts."""
    settings = {"model": "lstm", "hidden_size": 5, "num_layers": 2, "embedding_size": 3} | settings
    config = ModelConfig(**settings)
    model, rng = build_model(config, V), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    scale = 0.5 if is_stack(config, config.model) else 1.0
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32), shapes
    )


@partial(jax.jit, static_argnums=0)
def trained_on(model, params, carry, xs, targets, key):
    return model.token_log_probs(params, carry, xs, targets, training=True, key=key)


def run(model, params, key=KEY, rows=slice(None)):
    xs, targets = XS[rows], TARGETS[rows]
    return trained_on(model, params, model.init_carry(params, len(xs)), xs, targets, key)


@partial(jax.jit, static_argnums=0)
def trace_of(model, params, key):
    return token_trace(model, params, model.init_carry(params, B), XS, TARGETS, key)[1]


def plain(model, params):
    """By the definition, a scan of update and readout, which has no noise."""
    carry, log_probs = contract.scan_unroll(model, params, model.init_carry(params, B), XS)
    return carry, contract.gather_log_probs(log_probs, TARGETS)


def mask(key, rate, shape):
    return jax.random.bernoulli(key, 1.0 - rate, shape) / (1.0 - rate)


def weight_mask(key, rate, shape):
    """Of 16 random bits an entry, by NumPy: the low half of a word, then the high one."""
    words = np.asarray(jax.random.bits(key, ((int(np.prod(shape)) + 1) // 2,), jnp.uint32))
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1)[: np.prod(shape)].reshape(shape)
    kept = np.ceil((1.0 - rate) * 65536)
    return (halves < kept) * (65536 / kept)


def near(left, right, tolerance=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("recompute_steps", [0, 4])
def test_recurrent_weights_are_dropped_once_a_window(cell, recompute_steps):
    """One mask a layer for all rows and steps, also of a window that is taken in pieces."""
    model, params = made(model=cell, weight_drop=0.5, recompute_steps=recompute_steps)
    dropped, key = dict(params), jax.random.fold_in(KEY, WEIGHTS)
    for layer in range(2):
        name = f"recurrent_kernel_{layer}"
        kept = weight_mask(jax.random.fold_in(key, layer), 0.5, params[name].shape)
        dropped[name] = params[name] * kept
        assert 0 < (kept > 0).mean() < 1
    near(run(model, params), plain(model, dropped))


def test_the_gradient_passes_the_mask():
    model, params = made(num_layers=1, weight_drop=0.5)
    grads = jax.grad(lambda params: run(model, params)[1].sum())(params)["recurrent_kernel_0"]
    key = jax.random.fold_in(jax.random.fold_in(KEY, WEIGHTS), 0)
    kept = weight_mask(key, 0.5, grads.shape) > 0
    assert (np.asarray(grads != 0) == np.asarray(kept)).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.73, 0.999])
def test_weights_are_dropped_at_the_rate_asked(rate):
    """Of an odd number of weights too; and the mean stays."""
    kernel = jnp.ones((501, 601))
    dropped = np.asarray(drop_weights([Recurrent(kernel)], rate, KEY)[0].kernel, np.float64)
    number, kept = kernel.size, (dropped != 0).sum()
    assert abs(kept - number * (1 - rate)) < 4 * np.sqrt(number * rate * (1 - rate))
    scale = dropped[dropped != 0]
    np.testing.assert_allclose(scale, 65536 / np.ceil((1 - rate) * 65536), rtol=1e-6)
    assert abs(dropped.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / number)
    halves = (dropped != 0).reshape(-1)[:-1].reshape(-1, 2)
    together = (halves[:, 0] & halves[:, 1]).mean()  # neighbours share a word, and nothing else
    assert abs(together - (1 - rate) ** 2) < 4 / np.sqrt(number / 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"recompute_steps": 4},
        {"tie_embeddings": True},
        {"model": "gla", "hidden_size": 4, "embedding_size": 0, "num_heads": 2},
    ],
    ids=str,
)
def test_words_are_dropped_once_a_window(settings):
    """The rows of some words are zero wherever they are read, and whole where they are read out."""
    model, params = made(embedding_dropout=0.4, **settings)
    kept = mask(jax.random.fold_in(KEY, EMBEDDING), 0.4, (V, 1))
    assert 0 < (kept > 0).mean() < 1
    whole = params["embedding"]
    dropped = params | {"embedding": whole * kept}
    if "tie_embeddings" in settings:
        untied, _ = made()
        dropped["output_kernel"] = params["output_projection"] @ whole.T
        dropped.pop("output_projection")
        near(run(model, params), plain(untied, dropped))
    else:
        near(run(model, params), plain(model, dropped), 1e-4)


@pytest.mark.parametrize("kind", ["fresh", "variational"])
def test_inputs_and_outputs_are_dropped_by_masks_of_their_own(kind):
    """Step by step: the embedded token, the lower layer's output and the upper one's."""
    rates = {"input_dropout": 0.3, "dropout": 0.4, "output_dropout": 0.6}
    model, params = made(model="gru", dropout_kind=kind, **rates)
    steps, cell = 1 if kind == "variational" else T, cell_named("gru")
    masks = [
        mask(jax.random.fold_in(KEY, which), rate, (steps, B, width))
        for which, rate, width in ((INPUTS, 0.3, 3), (0, 0.4, 5), (1, 0.6, 5))
    ]
    assert all(0 < (each == 0).mean() < 1 for each in masks)
    states, raw, outputs = model.init_carry(params, B), [], []
    for t in range(T):
        x = params["embedding"][XS[:, t]] * masks[0][t % steps]
        after = []
        for layer, state in enumerate(states):
            projected = x @ params[f"input_kernel_{layer}"] + params[f"input_bias_{layer}"][None]
            recurrent = [params[f"recurrent_{part}_{layer}"] for part in ("kernel", "bias")]
            after.append(cell.step(Recurrent(*recurrent), state, projected, "float32"))
            x = after[-1] * masks[layer + 1][t % steps]
        states = tuple(after)
        raw.append(states[-1])
        outputs.append(x)
    trace = trace_of(model, params, KEY)
    near(trace.raw, jnp.stack(raw, axis=1))
    near(trace.outputs, jnp.stack(outputs, axis=1))
    log_probs = jax.nn.log_softmax(
        trace.outputs @ params["output_kernel"] + params["output_bias"][None, None]
    )
    near(trace.log_probs, contract.gather_log_probs(log_probs, TARGETS))
    near(trace.spread, log_probs.mean(axis=-1) - trace.log_probs)
    near(run(model, params)[1], trace.log_probs)


def test_the_last_layer_s_rate_is_that_of_all_unless_it_is_given():
    implied, params = made(dropout=0.4)
    given, _ = made(dropout=0.4, output_dropout=0.4)
    none, _ = made(dropout=0.4, output_dropout=0.0)
    np.testing.assert_array_equal(run(implied, params)[1], run(given, params)[1])
    trace = trace_of(none, params, KEY)
    np.testing.assert_array_equal(trace.raw, trace.outputs)


@pytest.mark.parametrize("kind", ["fresh", "variational"])
@pytest.mark.parametrize("model", ["lstm", "gla"])
def test_a_row_s_noise_is_the_same_however_the_batch_is_shared_out(kind, model):
    settings = dict(ALL, dropout_kind=kind)
    if model == "gla":
        settings |= {"hidden_size": 4, "embedding_size": 0, "num_heads": 2}
        settings |= {"output_dropout": -1.0, "weight_drop": 0.0}
    noisy, params = made(model=model, **settings)
    whole = run(noisy, params)[1]
    for first in range(0, B, 2):
        share = run(noisy, params, share_key(KEY, first, B), slice(first, first + 2))[1]
        near(share, whole[first : first + 2])
    assert np.abs(run(noisy, params, jax.random.key(6))[1] - whole).max() > 1e-2


def test_pieces_of_a_window_have_the_noise_of_the_whole():
    settings = dict(ALL, dropout_kind="variational")
    whole, params = made(**settings)
    pieces, _ = made(recompute_steps=4, **settings)
    near(run(pieces, params), run(whole, params))
    assert not np.array_equal(run(whole, params)[1], plain(whole, params)[1])
    near(trace_of(pieces, params, KEY), trace_of(whole, params, KEY))


@pytest.mark.parametrize("name", ALL)
def test_noise_needs_a_key_and_is_of_training_alone(name):
    noisy, params = made(**{name: 0.5})
    quiet, _ = made()
    start = noisy.init_carry(params, B)
    with pytest.raises(ValueError, match="expected a key for the dropout"):
        noisy.token_log_probs(params, start, XS, TARGETS, training=True)
    near(noisy.token_log_probs(params, start, XS, TARGETS), quiet.token_log_probs(params, start, XS, TARGETS))
    assert np.abs(run(noisy, params)[1] - run(quiet, params)[1]).max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_off_is_the_program_of_before(name):
    """At rates that are zero nothing is drawn: the same operations as of a model that has no such rates."""
    quiet, params = made(dropout=0.0)
    module = quiet.module.clone(**{name: 0.0})
    other = dataclasses.replace(quiet, module=module)

    def program(model):
        def work(params):
            return model.token_log_probs(
                params, model.init_carry(params, B), XS, TARGETS, training=True, key=KEY
            )

        return str(jax.make_jaxpr(work)(params))

    assert program(other) == program(quiet) and "random_bits" not in program(quiet)


def test_a_tied_projection_by_hand():
    """Logits are h P E' + b."""
    model, params = made(model="gru", num_layers=1, tie_embeddings=True)
    assert params["output_projection"].shape == (5, 3) and "output_kernel" not in params
    hidden = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5)), jnp.float32)
    logits = (
        np.asarray(hidden) @ params["output_projection"] @ params["embedding"].T + params["output_bias"][None]
    )
    near(model.readout(params, (hidden,)), jax.nn.log_softmax(logits))
