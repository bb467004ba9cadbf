"""Vectors of n-grams beside a hidden state: their formula by hand, the contract, what is dropped."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.config.language_model import LanguageModelConfig, ModelConfig, check
from lmseq.config.training import TrainConfig
from lmseq.contract import gather_log_probs, scan_carries, scan_unroll
from lmseq.models import interface
from lmseq.models.build import build_model
from lmseq.models.dynamic import Dynamic
from lmseq.models.mixture import with_cache
from lmseq.models.ngram_features import context_rows
from lmseq.noise import share_key
from lmseq.portable import portable
from lmseq.scoring import score
from lmseq.training.gradient import StepInfo
from lmseq.training.optimizer import make_optimizer
from lmseq.training.regularised import RegularisedLoss
from lmseq.types import Batch

V, B, T = 7, 4, 9
NETS = {
    "gru": {"model": "gru"},
    "tied": {"model": "lstm", "num_layers": 2, "embedding_size": 5, "tie_embeddings": True},
    "attention": {"model": "attention", "window": 4, "num_heads": 1},
    "stack": {"model": "stack", "layers": "gla,attention", "window": 4, "num_heads": 1},
}
FEATURES = {"ngram_order": 4, "ngram_rows": 30, "ngram_size": 3}
KEY = jax.random.key(3)
XS, TARGETS = jax.random.randint(jax.random.key(1), (2, B, T), 0, V)


def made(net="gru", **settings):
    """A model whose parameters are all away from where they begin, and these."""
    model = build_model(ModelConfig(hidden_size=6, **NETS[net] | FEATURES | settings), V)
    params = model.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    moved = [leaf + 0.4 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, tree.unflatten(moved)


def near(found, expected, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected
    )


def row_of(context, num_rows):
    """The hash in whole numbers of Python; the newest token stands last."""
    hashed = 0
    for token in reversed(context):
        hashed ^= token + 1
        hashed = (hashed ^ hashed >> 16) * 0x85EBCA6B % 2**32
        hashed = (hashed ^ hashed >> 13) * 0xC2B2AE35 % 2**32
        hashed ^= hashed >> 16
    return hashed % num_rows


@given(st.lists(st.integers(0, 2**31 - 2), min_size=1, max_size=9), st.integers(1, 2**26))
def test_rows_are_hashes_of_contexts(seen, num_rows):
    found = context_rows(jnp.asarray(seen, jnp.int32), num_rows)
    assert found.tolist() == [row_of(seen[-n:], num_rows) for n in range(1, len(seen) + 1)]


def test_contexts_spread_over_the_rows():
    """As evenly as balls thrown at random: a chi-square within five standard deviations, for each length."""
    seen = jnp.asarray(list(itertools.product(range(20), repeat=3)), jnp.int32)
    rows = np.asarray(context_rows(seen, 1000))
    counts = np.bincount(rows[:, 2], minlength=1000)
    assert abs(((counts - 8) ** 2 / 8).sum() - 999) < 5 * np.sqrt(2 * 999)
    assert len(set(rows[:, 0])) >= 19 and len({tuple(row) for row in rows}) > 7900


def test_the_formula_by_hand():
    """softmax of h W + sum of E[row] K + b, at each step, the beginning among the contexts."""
    model, params = made()
    net, net_params = build_model(ModelConfig(hidden_size=6), V), params["net"]
    _, log_probs = model.unroll(params, model.init_carry(params, B), XS)
    hidden = interface.hidden_steps(net, net_params, net.init_carry(net_params, B), XS)
    for row, step in itertools.product(range(B), range(T)):
        context = [V] * 3 + np.asarray(XS)[row, : step + 1].tolist()
        vectors = sum(np.asarray(params["ngram_rows"])[row_of(context[-n:], 30)] for n in (1, 2, 3))
        logits = np.asarray(hidden)[row, step] @ net_params["output_kernel"] + net_params["output_bias"]
        near(log_probs[row, step], jax.nn.log_softmax(logits + vectors @ np.asarray(params["ngram_kernel"])))


def test_at_the_beginning_it_is_the_net():
    model = build_model(ModelConfig(hidden_size=6, **FEATURES), V)
    params, net = model.init(KEY), build_model(ModelConfig(hidden_size=6), V)
    assert not params["ngram_rows"].any() and params["ngram_kernel"].any()
    both = (
        each.unroll(p, each.init_carry(p, B), XS)[1] for each, p in ((model, params), (net, params["net"]))
    )
    near(*both, 1e-6)


@pytest.mark.parametrize("net", NETS)
def test_scans_are_those_of_the_contract(net):
    model, params = made(net)
    carry = model.unroll(params, model.init_carry(params, B), TARGETS[:, :5])[0]
    near(model.unroll(params, carry, XS), scan_unroll(model, params, carry, XS))
    near(model.carries(params, carry, XS), scan_carries(model, params, carry, XS))
    last, log_probs = model.token_log_probs(params, carry, XS, TARGETS)
    near(
        (last, log_probs),
        (model.unroll(params, carry, XS)[0], gather_log_probs(model.unroll(params, carry, XS)[1], TARGETS)),
    )
    one = jax.tree.map(lambda leaf: leaf[:, -1], model.carries(params, carry, XS))
    near(interface.hidden(model, params, one), interface.hidden_steps(model, params, carry, XS)[:, -1])


@pytest.mark.parametrize("net", ["gru", "attention"])
def test_all_strings_sum_to_one(net):
    model, params = made(net)
    strings = jnp.asarray(list(itertools.product(range(V), repeat=3)))
    found = jax.vmap(lambda tokens: score(model, params, tokens))(strings)
    assert float(jnp.exp(found.sum(axis=1)).sum()) == pytest.approx(1.0, abs=1e-5)


def test_only_rows_that_were_met_learn():
    model, params = made(ngram_rows=5000)

    def loss(params):
        return model.token_log_probs(params, model.init_carry(params, B), XS, TARGETS, training=True)[1].sum()

    slope = np.asarray(jax.grad(loss)(params)["ngram_rows"])
    seen = [[V] * 3 + row for row in np.asarray(XS).tolist()]
    met = {row_of(row[end - n : end], 5000) for row in seen for end in range(4, T + 4) for n in (1, 2, 3)}
    assert set(np.flatnonzero(slope.any(axis=1))) == met


@pytest.mark.parametrize("net", ["gru", "tied", "stack"])
def test_a_trace_is_the_pass_of_training(net):
    model, params = made(net, ngram_dropout=0.4, dropout=0.3)
    carry = model.init_carry(params, B)
    last, trace = interface.token_trace(model, params, carry, XS, TARGETS, KEY)
    other, log_probs = model.token_log_probs(params, carry, XS, TARGETS, training=True, key=KEY)
    near((last, trace.log_probs), (other, log_probs))
    assert trace.outputs.shape == (B, T, 6)
    quiet = made(net)[0]
    spread = interface.token_trace(quiet, params, carry, XS, TARGETS)[1].spread
    whole = quiet.unroll(params, carry, XS)[1]
    near(spread, whole.mean(axis=-1) - gather_log_probs(whole, TARGETS))


def test_whole_vectors_are_dropped_and_rows_apart_see_the_same():
    """With one vector of one number that reads as itself, logits say which contexts were kept."""
    model, params = made(ngram_rows=5000, ngram_size=1, ngram_dropout=0.25, init_range=1.0)
    params = jax.tree.map(jnp.zeros_like, params)
    params["ngram_kernel"] = params["ngram_kernel"].at[0, 0].set(1.0)
    xs = jnp.broadcast_to(jnp.arange(T) % 3, (200, T))
    seen = jnp.concatenate([jnp.full((3,), V), xs[0]])
    rows = jnp.stack([context_rows(seen[t + 1 : t + 4], 5000) for t in range(T)])
    # The vector of a context of n tokens is 100^(n - 1), whatever it is made of.
    params["ngram_rows"] = params["ngram_rows"].at[rows].set(jnp.array([1.0, 100.0, 10000.0])[None, :, None])
    carry = model.init_carry(params, 200)
    _, log_probs = model.unroll(params, carry, xs, training=True, key=KEY)
    kept = np.rint(np.asarray(log_probs[..., 0] - log_probs[..., 1]) * 0.75).astype(int)
    digits = np.stack([kept % 100, kept // 100 % 100, kept // 10000], axis=-1)
    assert set(digits.ravel()) == {0, 1}
    rates = 1 - digits.reshape(-1, 3).mean(axis=0)
    assert (np.abs(rates - 0.25) < 5 * np.sqrt(0.25 * 0.75 / (200 * T))).all()
    assert len(np.unique(kept, axis=0)) > 100 and (kept != kept[:, :1]).any()
    half = model.unroll(
        params, model.init_carry(params, 100), xs[100:], training=True, key=share_key(KEY, 100, 200)
    )
    near(half[1], log_probs[100:])
    with pytest.raises(ValueError, match="expected a key for the dropout"):
        model.unroll(params, carry, xs, training=True)


def test_words_are_drawn_in_training_alone():
    model, params = made(sampled_softmax=3)
    carry = model.init_carry(params, B)
    exact = model.token_log_probs(params, carry, XS, TARGETS)[1]
    assert (
        np.abs(model.token_log_probs(params, carry, XS, TARGETS, training=True, key=KEY)[1] - exact).max()
        > 0.01
    )
    near(exact, made()[0].token_log_probs(params, carry, XS, TARGETS)[1])


def test_an_ablation_s_dropout_is_the_net_s():
    module = made()[0].module.with_dropout(0.3)
    assert module.dropout == 0.0 and module.net.dropout == 0.3
    assert made(dropout=0.3)[0].module == module


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"ngram_order": 1}, "ngram_order"),
        ({"ngram_order": -2}, "ngram_order"),
        ({"ngram_order": 65}, "ngram_order"),
        ({"ngram_order": 3, "ngram_rows": 0}, "ngram_rows"),
        ({"ngram_order": 3, "ngram_size": 0}, "ngram_size"),
        ({"ngram_order": 3, "ngram_dropout": 1.0}, "ngram_dropout"),
        ({"ngram_order": 3, "ngram_rows": 2**26, "ngram_size": 2**12}, r"ngram_rows \* ngram_size"),
        ({"ngram_rows": 7}, "ngram_rows=7 does nothing here"),
        ({"ngram_dropout": 0.1}, "ngram_dropout=0.1 does nothing here"),
        ({"ngram_order": 3, "model": "mlp"}, "read by recurrent models and stacks only"),
    ],
)
def test_what_cannot_be_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        check(LanguageModelConfig(model=ModelConfig(**settings)))


def test_penalties_and_smoothing_by_hand():
    """Penalties are of the net's outputs; the smoothed target is that of the whole softmax."""
    model, params = made()
    carry = model.init_carry(params, B)
    batch = Batch(XS, TARGETS, jnp.ones((B, T), bool))
    loss = RegularisedLoss(activation_penalty=0.7, temporal_penalty=0.3, label_smoothing=0.2)
    found = loss(model, params, carry, batch, StepInfo(0, KEY, jnp.array(False)))
    whole = model.unroll(params, carry, XS)[1]
    smoothed = -0.8 * gather_log_probs(whole, TARGETS) - 0.2 * whole.mean(axis=-1)
    outputs = np.asarray(interface.hidden_steps(model, params, carry, XS))[..., :6]
    penalties = 0.7 * (outputs**2).mean() + 0.3 * (np.diff(outputs, axis=1) ** 2).mean()
    assert float(found.minimised.nll) == pytest.approx(float(smoothed.sum() + penalties * B * T), rel=1e-5)


@pytest.mark.parametrize("net", ["gru", "tied"])
@pytest.mark.parametrize("features", [FEATURES, {"ngram_order": 0, "ngram_rows": 65536, "ngram_size": 32}])
def test_muon_turns_the_matrices_inside_the_net_alone(net, features):
    """All others have Adam's first update, whose numbers are all of one size."""
    model, params = made(net, **features)
    optimizer = make_optimizer(TrainConfig(optimizer="muon", warmup_steps=0, clip_norm=0.0))
    slopes = jax.grad(
        lambda params: model.token_log_probs(params, model.init_carry(params, B), XS, TARGETS)[1].sum()
    )
    updates, _ = jax.jit(optimizer.update)(slopes(params), optimizer.init(params), params)
    inner = {"recurrent_kernel_0", "recurrent_kernel_1", "input_kernel_1", "output_projection"}
    inner |= {"input_kernel_0"} if net == "tied" else set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        assert np.isfinite(update).all()
        names = {each.key for each in path}
        if update.ndim == 2:
            sizes = np.abs(np.asarray(update)[np.asarray(update) != 0])
            assert (sizes.max() > 1.1 * sizes.min()) == bool(names & inner), names


def test_a_traced_rate_is_a_rate():
    """As searches over `dropout` give it, several at once."""
    model, params = made(dropout=0.3)
    carry = model.init_carry(params, B)

    def run(rate):
        other = interface.bind(model.module.with_dropout(rate))
        return other.token_log_probs(params, carry, XS, TARGETS, training=True, key=KEY)[1]

    found = jax.vmap(run)(jnp.array([0.3, 0.6]))
    near(found[0], model.token_log_probs(params, carry, XS, TARGETS, training=True, key=KEY)[1])
    near(
        found[1], made(dropout=0.6)[0].token_log_probs(params, carry, XS, TARGETS, training=True, key=KEY)[1]
    )


def test_a_window_in_pieces_is_the_window():
    """What is computed anew for the derivative is the same."""
    whole, params = made(ngram_dropout=0.4)
    pieces = made(ngram_dropout=0.4, recompute_steps=2)[0]

    def slopes(model):
        def loss(params):
            start = model.init_carry(params, B)
            return model.token_log_probs(params, start, XS, TARGETS, training=True, key=KEY)[1].sum()

        return jax.value_and_grad(loss)(params)

    near(slopes(pieces), slopes(whole))


@pytest.mark.parametrize("net", ["gru", "stack"])
def test_exported_programs_say_the_same(net):
    model, params = made(net, backend="scan") if net == "gru" else made(net)
    found = portable(model, params)
    call = {name: program.call for name, program in found.programs.items()}
    named = {name: jnp.asarray(each) for name, each in found.params.items()}
    carry, ours = call["init_carry"](named, XS[:, 0]), model.init_carry(params, B)
    for step in range(4):
        carry = call["update"](named, carry, XS[:, step])
        ours = model.update(params, ours, XS[:, step])
        near(call["readout"](named, carry), model.readout(params, ours), 1e-6)


@pytest.mark.parametrize("around", ["dynamic", "cache"])
def test_models_around_it_predict(around):
    """All strings of two tokens sum to one, after some text."""
    model, params = made()
    if around == "dynamic":
        other = Dynamic(model, 2)
        given = other.init(KEY)._replace(model=params, rate=jnp.array(0.1))
    else:
        other, given = with_cache(model, params, 5, V, neural=True)
    carry = other.unroll(given, other.init_carry(given, 1), XS[:1, :5])[0]
    first = other.readout(given, carry)[0]
    seconds = jnp.stack(
        [other.readout(given, other.update(given, carry, jnp.array([x])))[0] for x in range(V)]
    )
    assert float(jnp.exp(first[:, None] + seconds).sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_model_without_a_hidden_state_is_refused():
    with pytest.raises(ValueError, match="needs a recurrent model or a stack, got model mlp"):
        build_model(ModelConfig(model="mlp", ngram_order=3), V)
