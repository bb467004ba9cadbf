"""A cell is a value: the list of them, what each may leave out, and one that leaves out all it can."""

import ast
from functools import partial
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lmseq import contract, generation, rollout, scoring
from lmseq.config.kinds import COMPILED_CELLS, CUDNN_CELLS, KERNEL_CELLS, CellKind
from lmseq.config.language_model import ModelConfig
from lmseq.config.series import SeriesModelConfig
from lmseq.config.training import TrainConfig
from lmseq.data.partition import epoch_plan
from lmseq.models.build import build_model, build_series_model
from lmseq.models.interface import bind
from lmseq.models.recurrent import RecurrentLanguageModel
from lmseq.models.recurrent_series import RecurrentSeriesModel
from lmseq.recurrence import unrolled
from lmseq.recurrence.cells import CELLS, cell_named
from lmseq.recurrence.cells.cell import Cell, project
from lmseq.training import ensemble
from tests.oracles import all_strings, cell_inputs, every_cell

ROOT = Path(__file__).resolve().parent.parent
V, D, LEAK = 3, 2, 0.3


def leaky_step(weights, state, x, precision):
    """h' = (1 - a) h + a tanh(x + h U)."""
    return (1.0 - LEAK) * state + LEAK * jnp.tanh(x + project(state, weights.kernel, precision))


LEAKY = Cell("leaky", 1, leaky_step)


def test_configs_name_the_cells_that_there_are():
    assert get_args(CellKind) == tuple(cell.name for cell in CELLS)
    assert COMPILED_CELLS == tuple(cell.name for cell in CELLS if cell.native is not None)
    assert KERNEL_CELLS == tuple(cell.name for cell in CELLS if cell.has_kernel)
    assert CUDNN_CELLS == tuple(cell.name for cell in CELLS if cell.is_cudnn_lstm)


@every_cell
def test_a_cell_is_found_by_its_name_and_is_the_same_every_time(cell):
    assert cell_named(cell.name) is cell and len({cell, cell_named(cell.name)}) == 1
    config = ModelConfig(model=cell.name, hidden_size=4)
    assert build_model(config, V).module.cell is cell
    assert build_series_model(SeriesModelConfig(model=cell.name), D).module.cell is cell
    assert build_model(config, V) == build_model(config, V)


def test_a_model_is_compiled_once():
    traced = []

    @partial(jax.jit, static_argnums=0)
    def readout(model, params):
        traced.append(model)
        return model.readout(params, model.init_carry(params, 1))

    for _ in range(2):
        model = build_model(ModelConfig(model="lstm", hidden_size=4), V)
        readout(model, model.init(jax.random.key(0)))
    assert len(traced) == 1


def misspelt(config):
    """The config with a model that a checked one cannot have."""
    object.__setattr__(config, "model", "lstn")
    return config


def test_what_does_not_exist_is_refused_with_what_does():
    names = ", ".join(cell.name for cell in CELLS)
    with pytest.raises(ValueError, match=f"expected a cell of {names}, got 'lstn'"):
        cell_named("lstn")
    with pytest.raises(
        ValueError, match=f"expected one of {names}, attention, .*, mlp, linear as model, got 'lstn'"
    ):
        build_model(misspelt(ModelConfig()), V)
    with pytest.raises(ValueError, match=f"expected one of mlp, linear, {names}, .* got 'lstn'"):
        build_series_model(misspelt(SeriesModelConfig()), D)


def test_a_cell_whose_parts_do_not_fit_is_refused():
    with pytest.raises(
        ValueError, match=r"cell leaky to hold a number for each of its 1 gates, got \(0.0, 1.0\)"
    ):
        Cell("leaky", 1, leaky_step, input_bias=(0.0, 1.0))
    with pytest.raises(ValueError, match="cell leaky has compiled loops: give it a derivative too"):
        Cell("leaky", 1, leaky_step, native=cell_named("rnn").native)


def test_loops_that_a_cell_does_not_have_are_refused():
    for cell in (LEAKY, cell_named("mingru")):
        with pytest.raises(ValueError, match=f"cell {cell.name} has no compiled loops"):
            unrolled.unroll_layer(cell, *cell_inputs(cell, 3, 2, 4), backend="native")


@pytest.mark.parametrize("cell", [*CELLS, LEAKY], ids=lambda cell: cell.name)
@pytest.mark.parametrize("time", [1, 7])
def test_a_layer_and_its_gradients_are_those_of_the_scan_of_the_step(cell, time):
    def plain(weights, state, xs):
        states = unrolled.scan_states(cell, weights, state, xs)
        return jax.tree.map(lambda leaf: leaf[-1], states), cell.output(states)

    def slopes(layer):
        def value(arguments):
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(layer(*arguments)))

        return jax.jit(jax.value_and_grad(value))

    with jax.enable_x64(True):
        arguments = cell_inputs(cell, time, 3, 5, dtype=np.float64)
        found = slopes(partial(unrolled.unroll_layer, cell))(arguments)
        expected = slopes(plain)(arguments)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected)


# A cell that has a step and nothing else.


def test_a_layer_of_a_new_cell_is_its_formula_and_its_gradients_are_those_of_differences():
    weights, state, xs = cell_inputs(LEAKY, 6, 2, 4)
    last, outputs = unrolled.unroll_layer(LEAKY, weights, state, xs)
    h = np.asarray(state, np.float64)
    for t in range(6):
        h = (1.0 - LEAK) * h + LEAK * np.tanh(np.asarray(xs[t], np.float64) + h @ np.asarray(weights.kernel))
        np.testing.assert_allclose(outputs[t], h, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(last, outputs[-1])
    with jax.enable_x64(True):
        layer = jax.jit(partial(unrolled.unroll_layer, LEAKY))
        arguments = cell_inputs(LEAKY, 4, 2, 5, dtype=np.float64)
        check_grads(layer, arguments, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_a_new_cell_may_have_its_products_in_bfloat16():
    arguments = cell_inputs(LEAKY, 20, 3, 16)

    def slopes(precision):
        def value(arguments):
            return jnp.sum(jnp.sin(unrolled.unroll_layer(LEAKY, *arguments, precision)[1]))

        return jax.tree.leaves(jax.jit(jax.grad(value))(arguments))

    for rough, exact in zip(slopes("bfloat16"), slopes("float32"), strict=True):
        assert rough.dtype == jnp.float32 and not np.array_equal(rough, exact)
        assert jnp.linalg.norm(rough - exact) < 0.05 * jnp.linalg.norm(exact)


def with_params(module, seed=0):
    """The bound module with parameters far from where training starts."""
    model, rng = bind(module), np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def language_model():
    module = RecurrentLanguageModel(
        cell=LEAKY, hidden_size=5, num_layers=2, embedding_size=4, vocab_size=V, recompute_steps=2
    )
    return with_params(module)


def test_a_new_cell_in_a_language_model():
    model, params = language_model()
    rng = np.random.default_rng(1)
    xs, targets = (jnp.asarray(rng.integers(V, size=(3, 7)), jnp.int32) for _ in range(2))
    weight = jnp.asarray(rng.normal(size=(3, 7)), jnp.float32)
    carry = model.init_carry(params, 3)
    near = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    jax.tree.map(near, model.unroll(params, carry, xs), contract.scan_unroll(model, params, carry, xs))
    jax.tree.map(near, model.carries(params, carry, xs), contract.scan_carries(model, params, carry, xs))

    def fast(params):
        return jnp.sum(weight * model.token_log_probs(params, carry, xs, targets)[1])

    def plain(params):
        log_probs = contract.scan_unroll(model, params, carry, xs)[1]
        return jnp.sum(weight * contract.gather_log_probs(log_probs, targets))

    jax.tree.map(near, jax.grad(fast)(params), jax.grad(plain)(params))


def test_a_new_cell_scores_and_samples():
    model, params = language_model()
    strings = all_strings(V, 4)
    log_probs = np.asarray(scoring.sequence_log_probs(model, params, jnp.asarray(strings)), np.float64)
    assert np.exp(log_probs.sum(axis=1)).sum() == pytest.approx(1.0, abs=1e-5)
    stream = np.random.default_rng(2).integers(V, size=40).astype(np.int32)
    found = scoring.score_stream(model, params, stream, num_steps=5, batch_size=3)
    np.testing.assert_allclose(found, scoring.score(model, params, stream), rtol=1e-4, atol=1e-5)
    prompt = np.array([1, 0], np.int32)
    samples = generation.sample_streams(jax.random.key(0), model, params, prompt, num_samples=4, num_tokens=6)
    whole = jnp.concatenate([jnp.tile(jnp.asarray(prompt), (4, 1)), samples.tokens], axis=1)
    expected = scoring.sequence_log_probs(model, params, whole)[:, 2:]
    np.testing.assert_allclose(samples.log_probs, expected, rtol=1e-4, atol=1e-5)


def test_a_new_cell_in_a_series_model():
    module = RecurrentSeriesModel(cell=LEAKY, hidden_size=4, num_layers=2, num_features=D, head="normal")
    model, params = with_params(module)
    values = jnp.asarray(np.random.default_rng(3).normal(size=(2, 7, D)), jnp.float32)
    carry = model.init_carry(params, 2)
    found, expected = model.unroll(params, carry, values), contract.scan_unroll(model, params, carry, values)
    near = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    jax.tree.map(near, found, expected)
    assert np.isfinite(scoring.score(model, params, values[0])).all()
    assert rollout.free_run(model, params, values[0], num_steps=5).shape == (5, D)


def test_a_new_cell_trains_in_an_ensemble_as_alone():
    model, stream = language_model()[0], np.random.default_rng(4).integers(V, size=200).astype(np.int32)
    train = TrainConfig(num_train_steps=4, steps_per_dispatch=2, warmup_steps=1)

    def losses(*seeds):
        def plan(seed, epoch):
            return epoch_plan("sequential", stream.size, 6, 4, seed, epoch)

        done = ensemble.ensemble_run(model, train, ensemble.Members(seeds, {}), stream, plan, 4, 6)
        return np.concatenate([each.metrics.totals.nll for each in done], axis=1)

    np.testing.assert_allclose(losses(3, 5)[1], losses(5)[0], rtol=1e-5)


# Names of cells are for configs, and for whoever turns a config into a model.

NAMES = {cell.name for cell in CELLS}
MAY_COMPARE_NAMES = {
    "lmseq/models/build.py",
    "experiments/claims/truncation.py",  # "rnn" is the recurrent row of its records, whatever the cell
}


def compared_names(source: str) -> set[str]:
    """The names of cells that a file compares something with, or has as a case or a key to look up by."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare | ast.MatchValue):
            constants = [leaf for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)]
            found |= {leaf.value for leaf in constants if leaf.value in NAMES}
    return found


@pytest.mark.parametrize("folder", ["lmseq", "experiments"])
def test_nobody_else_compares_names_of_cells(folder):
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        names = compared_names(path.read_text(encoding="utf-8"))
        if names and file not in MAY_COMPARE_NAMES and not file.startswith("lmseq/config/"):
            found[file] = names
    assert not found, f"hold a Cell and read its fields instead: {found}"


@pytest.mark.parametrize(
    "source",
    [
        'if kind == "gru": pass',
        'x = kind in ("rnn", "lstm")',
        'match kind:\n    case "mlp" | "mingru": pass',
        'x = 1 if "lstm" != kind else 2',
    ],
)
def test_a_comparison_is_noticed(source):
    assert compared_names(source)
    assert not compared_names('name = "gru"; cell.name == other.name')
