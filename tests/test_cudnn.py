"""The layer that cuDNN runs: on a GPU against the scan; elsewhere JAX's reference stands in its place."""

import dataclasses
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import rnn

from lmseq.config.language_model import LanguageModelConfig, ModelConfig, check
from lmseq.layers import affine
from lmseq.models.build import build_model
from lmseq.recurrence import cudnn, unrolled
from lmseq.recurrence.cells.cell import Recurrent
from lmseq.recurrence.cells.lstm import LSTM, LstmState

T, B, D, H, V = 6, 3, 5, 4, 11
EXACT, FAST = (lax.Precision.HIGHEST,) * 2, (lax.Precision.HIGH,) * 2


def in_its_place(seen=None):
    """`rnn.lstm` as its own reference computes it, with the same signature."""

    def lstm(x, h_0, c_0, weights, lengths, width, hidden, num_layers, dropout, both_ways, precision=None):
        assert precision in (EXACT, FAST)
        if seen is not None:
            seen.append((x.shape, precision))
        leaves = rnn.unpack_lstm_weights(weights, width, hidden, num_layers, both_ways)
        shape = width, hidden, num_layers, dropout, both_ways
        return rnn.lstm_ref(x, h_0, c_0, *leaves, lengths, *shape)

    return lstm


@pytest.fixture
def kernel(monkeypatch):
    """As if there were a GPU with cuDNN; what it is called with."""
    seen = []
    monkeypatch.setattr(rnn, "lstm", in_its_place(seen))
    monkeypatch.setattr(cudnn, "is_there", lambda: True)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    return seen


def layer(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = (D, 4 * H), (4 * H,), (H, 4 * H), (B, H), (B, H), (T, B, D)
    return [jnp.asarray(rng.normal(size=shape).astype(dtype)) for shape in shapes]


def by_scan(kernel, bias, recurrent, hidden, cell, xs):
    state, weights = LstmState(hidden, cell), Recurrent(recurrent)
    return unrolled.unroll_layer(LSTM, weights, state, affine(xs, kernel, bias), backend="scan")


def by_cudnn(kernel, bias, recurrent, hidden, cell, xs):
    state = LstmState(hidden, cell)
    return cudnn.unroll_layer(kernel, bias, Recurrent(recurrent), state, xs, "float32")


def slopes(run):
    def value(*arguments):
        last, outputs = run(*arguments)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(last.hidden * last.cell), (last, outputs)

    return jax.jit(jax.value_and_grad(value, argnums=tuple(range(6)), has_aux=True))(*layer())


def assert_near(found, expected, tolerance=2e-5):
    near = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(near, found, expected)


def test_the_stand_in_is_called_as_the_kernel_is():
    assert list(inspect.signature(rnn.lstm).parameters)[-6:] == [
        "input_size",
        "hidden_size",
        "num_layers",
        "dropout",
        "bidirectional",
        "precision",
    ]


def test_weights_are_packed_as_the_kernel_unpacks_them(kernel):
    assert_near(slopes(by_cudnn), slopes(by_scan))
    assert kernel == [((B, T, D), EXACT)]


def test_on_a_gpu_it_is_the_scan():
    if jax.default_backend() != "gpu":
        pytest.skip("no GPU: the kernel itself is not run")
    assert cudnn.is_there()
    assert_near(slopes(by_cudnn), slopes(by_scan), 1e-4)


def gradient(config, key=None):
    model = build_model(config, V)
    params = model.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (B, T + 1), 0, V)

    def loss(params):
        carry = model.init_carry(params, B)
        carry, log_probs = model.token_log_probs(
            params, carry, tokens[:, :-1], tokens[:, 1:], training=key is not None, key=key
        )
        return -jnp.mean(log_probs), carry

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("embedding_size", [0, 7])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("backend", ["auto", "cudnn"])
def test_a_model_trains_by_it(kernel, embedding_size, num_layers, backend):
    config = ModelConfig("lstm", H, num_layers, embedding_size, backend=backend, dropout=0.3)
    key = jax.random.key(2)
    found = gradient(config, key)
    assert len(kernel) == num_layers and kernel[0] == ((B, T, embedding_size or V), EXACT)
    assert_near(found, gradient(dataclasses.replace(config, backend="scan"), key))
    assert len(kernel) == num_layers


def test_tf32_is_for_training_alone(kernel):
    config = ModelConfig("lstm", H, precision="tf32")
    gradient(config, jax.random.key(2))
    gradient(config)
    assert [precision for _, precision in kernel] == [FAST, EXACT]


def test_what_it_has_not_goes_by_the_loops(kernel):
    for change in ({"model": "gru"}, {"model": "rnn"}, {"backend": "scan"}, {"precision": "bfloat16"}):
        gradient(ModelConfig(**{"model": "lstm", "hidden_size": H} | change), jax.random.key(2))
    model = build_model(ModelConfig("lstm", H), 1000)  # one-hot inputs of a thousand symbols
    ids = jnp.zeros((B, T), jnp.int32)
    params = model.init(jax.random.key(0))
    model.token_log_probs(params, model.init_carry(params, B), ids, ids)
    assert not kernel


def test_auto_leaves_it_where_a_batch_or_members_are_shared_out(kernel, monkeypatch):
    assert unrolled.takes_cudnn(LSTM, "float32", "auto")
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not unrolled.takes_cudnn(LSTM, "float32", "auto")


def test_without_a_gpu_it_is_not_there():
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    assert not cudnn.is_there()
    assert not unrolled.takes_cudnn(LSTM, "float32", "auto")
    for precision, reason in (("float32", "needs a GPU"), ("bfloat16", "takes float32 or tf32")):
        with pytest.raises(ValueError, match=f"backend cudnn {reason}"):
            unrolled.takes_cudnn(LSTM, precision, "cudnn")


@pytest.mark.parametrize("fault", [None, "wrong", "raises"])
def test_it_is_tried_before_it_is_trusted(monkeypatch, fault):
    def lstm(*arguments):
        if fault == "raises":
            raise NotImplementedError
        outputs, last, memory = in_its_place()(*arguments)
        return (1.01 * outputs if fault else outputs), last, memory

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(rnn, "gpu_rnn", object())
    monkeypatch.setattr(rnn, "lstm", lstm)
    cudnn.is_there.cache_clear()
    try:
        # Also in the middle of a trace, which is where a model asks.
        jax.eval_shape(lambda x: (cudnn.is_there(), x)[1], jnp.zeros(3))
        assert cudnn.is_there() == (fault is None)
    finally:
        cudnn.is_there.cache_clear()


def test_settings_that_it_has_not_are_refused():
    for change, reason in (
        ({"model": "gru"}, "is for model lstm"),
        ({"model": "mlp"}, "model lstm"),
    ):
        model = ModelConfig(**{"backend": "cudnn"} | change)
        with pytest.raises(ValueError, match=reason):
            check(LanguageModelConfig(model=model))
