"""A model of four methods: its defaults are the scans, and it is told apart from one in training."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq import contract
from lmseq.config.language_model import ModelConfig
from lmseq.contract import Model, StepModel, check_key
from lmseq.layers import Precision
from lmseq.models.build import build_model
from lmseq.models.interface import SequenceModule, bind
from lmseq.models.ngram import put_tables
from lmseq.ngram.counts import FIRST_WORD_ID, count_ngrams, mark_sentences
from lmseq.ngram.smoothing import modified_kneser_ney
from tests.oracles import EVERY, random_stream, small

V, H = 3, 4
KEY = jax.random.key(0)


@dataclass(frozen=True)
class Elman(StepModel):
    """h_t = tanh(W x_t + U h_{t-1}), and a softmax of it: functions and nothing else."""

    vocab_size: int
    hidden_size: int

    def init(self, key):
        shapes = {
            "inputs": (self.vocab_size, self.hidden_size),
            "recurrent": (self.hidden_size, self.hidden_size),
            "output": (self.hidden_size, self.vocab_size),
        }
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.normal(k, shape) / shape[0] ** 0.5
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def init_carry(self, params, batch_size):
        return jnp.zeros((batch_size, self.hidden_size))

    def update(self, params, carry, x):
        return jnp.tanh(params["inputs"][x] + carry @ params["recurrent"])

    def readout(self, params, carry):
        return jax.nn.log_softmax(carry @ params["output"])


class ElmanModule(SequenceModule):
    """The same in Flax, with three methods and a submodule."""

    vocab_size: int
    hidden_size: int

    def setup(self):
        self.inputs = self.param("inputs", nn.initializers.normal(), (self.vocab_size, self.hidden_size))
        self.recurrent = self.param("recurrent", nn.initializers.normal(), (self.hidden_size,) * 2)
        self.output = nn.Dense(self.vocab_size, use_bias=False)

    def init_carry(self, batch_size):
        return jnp.zeros((batch_size, self.hidden_size))

    def update(self, carry, x):
        return jnp.tanh(self.inputs[x] + carry @ self.recurrent)

    def readout(self, carry):
        return jax.nn.log_softmax(self.output(carry))


def tokens(batch, time, seed=0):
    return jnp.asarray(random_stream(batch * time, seed, V).reshape(batch, time))


def flax_twin():
    """An Elman of four methods, and its twin of Flax, with one set of numbers."""
    model, twin = Elman(V, H), bind(ElmanModule(V, H))
    params = model.init(KEY)
    theirs = {name: params[name] for name in ("inputs", "recurrent")} | {
        "output": {"kernel": params["output"]}
    }
    assert jax.tree.structure(theirs) == jax.tree.structure(twin.init(KEY))
    return (model, params), (twin, theirs)


def by_hand(model, params, xs):
    """Carries, predictions, and the last carry, a step at a time."""
    carry, carries, predictions = model.init_carry(params, len(xs)), [], []
    for t in range(xs.shape[1]):
        carry = model.update(params, carry, xs[:, t])
        carries.append(carry)
        predictions.append(model.readout(params, carry))
    return np.stack(carries, axis=1), np.stack(predictions, axis=1), np.asarray(carry)


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_written_is_a_scan(which):
    model, params = flax_twin()[which]
    xs, targets = tokens(2, 7), tokens(2, 7, seed=1)
    carries, predictions, last = by_hand(model, params, xs)
    start = model.init_carry(params, 2)
    np.testing.assert_allclose(model.carries(params, start, xs), carries, atol=1e-6)
    end, found = model.unroll(params, start, xs)
    np.testing.assert_allclose(found, predictions, atol=1e-6)
    np.testing.assert_allclose(end, last, atol=1e-6)
    end, log_probs = model.token_log_probs(params, start, xs, targets, training=True, key=KEY)
    expected = np.take_along_axis(predictions, np.asarray(targets)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(log_probs, expected, atol=1e-6)
    np.testing.assert_allclose(end, last, atol=1e-6)


def test_it_is_a_model_and_a_static_argument():
    assert isinstance(Elman(V, H), Model) and hash(Elman(V, H)) == hash(Elman(V, H))
    traced = []

    def first(model, params):
        traced.append(model)
        return model.readout(params, model.init_carry(params, 1))

    program = jax.jit(first, static_argnums=0)
    for _ in range(2):
        program(Elman(V, H), Elman(V, H).init(KEY))
    assert len(traced) == 1, "equal models share a program"


def test_a_method_that_is_missing_is_named():
    class Half(StepModel):
        def init(self, key):
            return {}

    with pytest.raises(TypeError, match=r"init_carry.*readout.*update"):
        Half()


@pytest.mark.parametrize("kind", ["chain of order 2", "hidden Markov source", "trigram of lines"])
def test_reading_out_all_at_once_is_the_scan(kind):
    model, params = small(kind)
    xs, start = tokens(2, 6), model.init_carry(params, 2)
    ways = (contract.scan_unroll, contract.unroll_by_carries)
    expected, found = jax.jit(lambda *given: [way(model, *given) for way in ways])(params, start, xs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_a_carry_may_be_empty():
    """As that of counts of single words is, which remember nothing."""
    words = FIRST_WORD_ID + random_stream(60, vocab_size=V)
    tables = modified_kneser_ney(
        count_ngrams(mark_sentences([words]), FIRST_WORD_ID + V, 1), discount_fallback=True
    ).tables
    model, params = put_tables(tables, FIRST_WORD_ID + np.arange(V), has_unknown=False)
    start = model.init_carry(params, 2)
    assert start.shape == (2, 0)
    expected = contract.scan_unroll(model, params, start, tokens(2, 6))
    found = model.unroll(params, start, tokens(2, 6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


# Training


@pytest.mark.parametrize("kind", EVERY)
def test_a_key_without_training_is_refused(kind):
    model, params = small(kind)
    xs, start = tokens(1, 3), model.init_carry(params, 1)
    with pytest.raises(ValueError, match="expected training=True with a key"):
        model.unroll(params, start, xs, key=KEY)
    with pytest.raises(ValueError, match="expected training=True with a key"):
        model.token_log_probs(params, start, xs, xs, key=KEY)


@pytest.mark.parametrize("kind", EVERY)
def test_without_dropout_training_needs_no_key(kind):
    model, params = small(kind)
    xs, start = tokens(1, 3), model.init_carry(params, 1)

    @jax.jit
    def ways(params, start, xs):
        modes = ({}, {"training": True}, {"training": True, "key": KEY})
        return [model.token_log_probs(params, start, xs, xs, **mode)[1] for mode in modes]

    quiet, *found = ways(params, start, xs)
    for each in found:
        np.testing.assert_allclose(each, quiet, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gru", "mlp"])
def test_dropout_needs_a_key_in_training(kind):
    model = build_model(ModelConfig(model=kind, hidden_size=H, tau=2 if kind == "mlp" else 8, dropout=0.5), V)
    params, xs = model.init(KEY), tokens(1, 3)
    start = model.init_carry(params, 1)
    for call in (
        lambda: model.unroll(params, start, xs, training=True),
        lambda: model.token_log_probs(params, start, xs, xs, training=True),
    ):
        with pytest.raises(ValueError, match="expected a key for the dropout of training"):
            call()
    quiet = model.unroll(params, start, xs)[1]
    assert (quiet != model.unroll(params, start, xs, training=True, key=KEY)[1]).any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_alone_lowers_the_precision(precision: Precision):
    model = build_model(ModelConfig(model="gru", hidden_size=32, precision=precision, backend="scan"), V)
    params, xs = model.init(KEY), tokens(2, 9)
    start = model.init_carry(params, 2)
    quiet, training, noisy = (
        np.asarray(model.unroll(params, start, xs, **mode)[1])
        for mode in ({}, {"training": True}, {"training": True, "key": KEY})
    )
    np.testing.assert_array_equal(training, noisy)
    assert (quiet == training).all() == (precision == "float32")


@pytest.mark.parametrize("has_key", [False, True])
def test_training_alone_computes_activations_anew(has_key):
    model = build_model(ModelConfig(model="gru", hidden_size=H, recompute_steps=2), V)
    params, xs = model.init(KEY), tokens(1, 5)
    start = model.init_carry(params, 1)

    def program(**mode):
        return str(jax.make_jaxpr(lambda params: model.unroll(params, start, xs, **mode)[1])(params))

    assert "prevent_cse" in program(training=True, key=KEY if has_key else None)  # jax.checkpoint's
    assert "prevent_cse" not in program()
    whole = model.unroll(params, start, xs)[1]
    pieces = model.unroll(params, start, xs, training=True, key=KEY if has_key else None)[1]
    np.testing.assert_allclose(pieces, whole, atol=1e-6)


@pytest.mark.parametrize(
    "training, has_key, has_noise, message",
    [
        (False, True, False, "give both or none"),
        (False, True, True, "give both or none"),
        (True, False, True, "give key=, or a model without dropout"),
        (True, False, False, None),
        (True, True, True, None),
        (False, False, True, None),
    ],
)
def test_which_keys_are_asked_for(training, has_key, has_noise, message):
    key = KEY if has_key else None
    if message is None:
        check_key(training, key, has_noise=has_noise)
        return
    with pytest.raises(ValueError, match=message) as caught:
        check_key(training, key, has_noise=has_noise)
    assert "\n" not in str(caught.value)
