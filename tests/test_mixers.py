"""Mixers: all steps at once against one by one, published ones against their formulas; and their stacks."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmseq import contract
from lmseq.config.language_model import ModelConfig
from lmseq.config.mixers import CELL_NAMES, MIXERS, MixerConfig
from lmseq.mixers.mixer import Spread
from lmseq.mixers.named import PUBLISHED, mixer_named
from lmseq.models import stack
from lmseq.models.build import build_model
from tests.test_matrix_state import assert_near

B, WIDTH, N, KEY, VALUE = 2, 8, 2, 3, 5
SIZES = {"num_heads": N, "key_size": KEY, "value_size": VALUE, "chunk": 4, "window": 3}


def mixer_of(name: str, **settings):
    """A mixer, NumPy parameters far from the first ones, a carry that is not fresh, and inputs; float64."""
    mixer = mixer_named(name, MixerConfig(**SIZES | settings), has_output=True, backend="scan")
    shapes = jax.eval_shape(partial(mixer.init, width=WIDTH, spread=Spread()), jax.random.key(0))
    rng = np.random.default_rng(len(name))
    params = jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape), shapes)
    return mixer, params, rng.normal(size=(B, 9, WIDTH)), rng.normal(size=(B, 5, WIDTH))


@partial(jax.jit, static_argnums=0)
def unroll(mixer, params, carry, xs):
    return mixer.unroll(params, carry, xs)


@partial(jax.jit, static_argnums=0)
def scan(mixer, params, carry, xs):
    last, outputs = lax.scan(partial(mixer.step, params), carry, jnp.swapaxes(xs, 0, 1))
    return last, jnp.swapaxes(outputs, 0, 1)


CASES = [(name, {}) for name in (*CELL_NAMES, *MIXERS)] + [
    ("attention", {"num_key_heads": 1}),
    ("matrix", {"decay": "fixed", "delta_rule": True, "convolution": 3}),
    ("gla", {"convolution": 1}),
    ("matrix", {"decay": "vector", "delta_rule": True, "max_strength": 2.0}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_all_steps_at_once_equal_one_by_one(name, settings):
    """From a carry that has seen something."""
    mixer, *given = mixer_of(name, **settings)
    with jax.enable_x64(True):
        params, before, xs = jax.tree.map(jnp.asarray, given)
        carry, _ = scan(mixer, params, mixer.init_carry(params, B), before)
        assert all(leaf.size for leaf in jax.tree.leaves(carry))  # one without entries could not be saved
        expected = jax.tree.map(np.asarray, scan(mixer, params, carry, xs))
        assert_near(unroll(mixer, params, carry, xs), expected, 1e-10)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def transition_of(name, max_strength, decay, taken, strength, key):
    """A_t (d_k, d_k) and b_t of one head and step, as the papers write them."""
    unit = key / np.linalg.norm(key)
    erasing = np.eye(KEY) - max_strength * strength * np.outer(unit, unit)
    match name:
        case "linear_attention":
            return np.eye(KEY), 1.0
        case "retnet":
            return decay * np.eye(KEY), 1.0
        case "mamba2":
            return decay * np.eye(KEY), taken
        case "gla":
            return np.diag(decay), 1.0
        case "deltanet":
            return erasing, max_strength * strength
        case "gated_deltanet":
            return decay * erasing, max_strength * strength


def decays_of(name, params, x):
    """alpha_t of each head, and the step size D_t of those that have one, of an input x (D,)."""
    if name == "retnet":
        return 1.0 - 2.0 ** (-5.0 - np.arange(N)), np.ones(N)
    if name == "gla":
        return (sigmoid(x @ params["decay"] + params["decay_bias"]) ** (1 / 16)).reshape(N, KEY), np.ones(N)
    if name in ("mamba2", "gated_deltanet"):
        taken = np.log1p(np.exp(x @ params["decay"] + params["decay_bias"]))
        return np.exp(-np.exp(params["decay_rate"]) * taken), taken
    return np.ones(N), np.ones(N)


def by_numpy(name, params, xs, max_strength=1.0):
    """The outputs (T, D) of one sequence, from nothing seen, one step after the other."""
    kernel, size = params.get("convolution"), N * (2 * KEY + VALUE)
    states, recent, outputs = np.zeros((N, KEY, VALUE)), np.zeros((4, size)), []
    for x in xs:
        projected = x @ params["input"]
        mixed, gates = projected[:size], projected[size:].reshape(N, VALUE)
        recent = np.concatenate([recent[1:], mixed[None]])
        if kernel is not None:
            mixed = (kernel * recent).sum(axis=0)
            mixed = mixed * sigmoid(mixed)
        queries, keys, values = np.split(mixed, [N * KEY, 2 * N * KEY])
        decays, taken = decays_of(name, params, x)
        strengths = (
            sigmoid(x @ params["strength"] + params["strength_bias"]) if "strength" in params else taken
        )
        read = []
        for n in range(N):
            q, k = queries.reshape(N, KEY)[n], keys.reshape(N, KEY)[n]
            if name == "linear_attention":
                q, k = (np.where(part > 0, part + 1.0, np.exp(part)) for part in (q, k))
            a, b = transition_of(name, max_strength, decays[n], taken[n], strengths[n], k)
            delta = "delta" in name
            k = k / np.linalg.norm(k) if delta else k
            if delta:
                q = q / np.linalg.norm(q)
            elif name != "mamba2":
                q = q / KEY**0.5
            states[n] = a @ states[n] + b * np.outer(k, values.reshape(N, VALUE)[n])
            out = states[n].T @ q
            read.append(params["norm"] * out / np.sqrt(np.mean(out**2) + 1e-12))
        outputs.append((np.array(read) * gates * sigmoid(gates)).reshape(-1) @ params["output"])
    return np.array(outputs)


@pytest.mark.parametrize(
    ("name", "max_strength"), [*product(PUBLISHED, [1.0]), ("deltanet", 2.0), ("gated_deltanet", 2.0)]
)
def test_published_mixers_are_what_their_papers_say(name, max_strength):
    mixer, params, _, _ = mixer_of(name, max_strength=max_strength)
    xs = np.random.default_rng(1).normal(size=(B, 11, WIDTH))
    expected = np.array([by_numpy(name, params, row, max_strength) for row in xs])
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        assert_near(unroll(mixer, params, mixer.init_carry(params, B), jnp.asarray(xs))[1], expected, 1e-9)


# Stacks


def model_of(**settings):
    """A language model over 5 symbols, its first parameters, and tokens (2, 12)."""
    sizes = {"hidden_size": 8, "num_heads": 2, "window": 4, "chunk": 4}
    model = build_model(ModelConfig(**sizes | settings), 5)
    tokens = jax.random.randint(jax.random.key(1), (2, 13), 0, 5)
    return model, model.init(jax.random.key(0)), tokens[:, :-1], tokens[:, 1:]


def loss_and_slope(model, params, xs, targets, key=None):
    @jax.jit
    def run(params, key):
        def loss(params):
            carry = model.init_carry(params, xs.shape[0])
            return -model.token_log_probs(params, carry, xs, targets, training=True, key=key)[1].mean()

        return jax.value_and_grad(loss)(params)

    return jax.tree.map(np.asarray, run(params, key))


@pytest.mark.parametrize("kind", ["linear_attention", "attention"])
def test_many_equal_layers_in_a_loop_are_the_layers_one_by_one(kind, monkeypatch):
    """Their masks of dropout, too."""
    model, *given = model_of(model=kind, num_layers=3, dropout=0.3)
    params, xs, _ = given
    carry, key = model.init_carry(params, 2), jax.random.key(2)
    one_by_one = loss_and_slope(model, *given, key)
    monkeypatch.setattr(stack, "DEEP", 3)
    assert_near(loss_and_slope(model, *given, key), one_by_one, 1e-5)
    expected = jax.jit(partial(contract.scan_unroll, model))(params, carry, xs)
    assert_near(model.unroll(params, carry, xs), jax.tree.map(np.asarray, expected), 1e-5)


def test_the_program_of_many_equal_layers_is_that_of_one():
    def length_of(num_layers: int) -> int:
        model, params, xs, _ = model_of(model="attention", num_layers=num_layers)
        return len(jax.jit(model.unroll).lower(params, model.init_carry(params, 2), xs).as_text())

    assert length_of(stack.DEEP) < length_of(stack.DEEP - 1) / 2


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "attention", "dropout": 0.4, "dropout_kind": "variational"},
        {"model": "stack", "layers": "rglru,linear_attention", "convolution": 3},
    ],
    ids=str,
)
def test_activations_computed_anew_change_nothing_but_memory(settings):
    """Pieces of five steps of twelve; where one mask serves all steps, with dropout too."""
    key = jax.random.key(3) if "dropout" in settings else None
    model, *given = model_of(**settings)
    again = model_of(**settings, recompute_steps=5)[0]
    expected = loss_and_slope(model, *given, key)
    for one, other in zip(
        jax.tree.leaves(loss_and_slope(again, *given, key)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_activations_computed_anew_need_less_memory():
    def bytes_of(recompute_steps: int) -> int:
        model, params, _, _ = model_of(model="attention", recompute_steps=recompute_steps)
        xs = jnp.zeros((2, 512), jnp.int32)

        def loss(params):
            return model.token_log_probs(params, model.init_carry(params, 2), xs, xs, training=True)[1].mean()

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(32) < bytes_of(0) / 3
