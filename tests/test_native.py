"""The compiled loops against the scan, in float64 where it is the oracle; and how they are made and found."""

import re
import shutil
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmseq.layers import SMALL_VOCABULARY
from lmseq.models.interface import bind
from lmseq.models.recurrent import RecurrentLanguageModel
from lmseq.ngram import native as counts
from lmseq.recurrence import library, unrolled
from lmseq.recurrence.cells import CELLS
from lmseq.recurrence.cells.cell import Inputs
from lmseq.recurrence.cells.gru import GRU
from lmseq.recurrence.cells.lstm import LSTM
from lmseq.training.sharding import make_mesh
from tests.oracles import cell_inputs
from tests.scripts import SMALL, Scripts

every_loop = pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if cell.native is not None], ids=lambda cell: cell.name
)
# Whole blocks of the loops, parts of them, and one of everything.
SHAPES = [
    (64, 32, 256),
    (3, 1, 16),
    (2, 25, 33),
    (1, 3, 32),
    (1, 1, 1),
    (5, 30, 70),
    (4, 13, 8),
    (3, 6, 65),
    (2, 2, 47),
]


@pytest.fixture
def half_precision(compiled_loops):
    if not library.is_loaded("bfloat16"):
        pytest.skip("this processor has no bfloat16 products")


def draw(cell, time, batch, hidden, seed=0):
    """Weights, a state that is not zero, inputs (T, B, G * H), and weights of the outputs."""
    scale = np.random.default_rng(seed + 1).normal(size=(time, batch, hidden)).astype(np.float32)
    return *jax.tree.map(np.array, cell_inputs(cell, time, batch, hidden, seed)), scale


def value(run, scale, weights, state, xs):
    last, outputs = run(weights, state, xs)
    return jnp.sum(scale * outputs) + sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(last))


def by(cell, backend, precision="float32"):
    @jax.jit
    def run(weights, state, xs):
        return unrolled.unroll_layer(cell, weights, state, xs, precision, backend)

    return run


def reference(cell):
    @jax.jit
    def run(weights, state, xs):
        states = unrolled.scan_states(cell, weights, state, xs)
        return jax.tree.map(lambda leaf: leaf[-1], states), cell.output(states)

    return run


def with_outputs(run):
    """The value that is derived, and what it was made of."""

    def both(scale, weights, state, xs):
        result = run(weights, state, xs)
        return value(lambda *_: result, scale, weights, state, xs), result

    return jax.jit(jax.value_and_grad(both, (1, 2, 3), has_aux=True))


@every_loop
@pytest.mark.parametrize("time, batch, hidden", SHAPES)
def test_outputs_and_gradients_are_those_of_the_scan(compiled_loops, cell, time, batch, hidden):
    """Outputs twice: those of a forward pass alone are made by another loop."""
    *arguments, scale = draw(cell, time, batch, hidden, seed=time)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (scale, *arguments))
        (_, expected), expected_slopes = with_outputs(reference(cell))(*exact)
    (_, beside), slopes = with_outputs(by(cell, "native"))(scale, *arguments)
    for found in (beside, by(cell, "native")(*arguments)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=5e-6), found, expected)
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected_slopes), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, np.abs(theirs).max()))


@every_loop
@pytest.mark.parametrize("hidden", [7, 32, 65])
def test_bfloat16_products_are_those_of_the_scan(half_precision, cell, hidden):
    *arguments, scale = draw(cell, 6, 5, hidden)
    # Sums in another order move a state by a last digit, and now and then what it is rounded to.
    for function in (
        lambda backend: by(cell, backend, "bfloat16")(*arguments),
        lambda backend: jax.grad(partial(value, by(cell, backend, "bfloat16"), scale), (0, 1, 2))(*arguments),
    ):
        for ours, theirs in zip(*(jax.tree.leaves(function(b)) for b in ("native", "scan")), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.01 * max(1.0, np.abs(theirs).max()))
    rough, exact = (by(cell, "native", precision)(*arguments)[1] for precision in ("bfloat16", "float32"))
    assert not np.array_equal(rough, exact)


def parts(kind, xs, seed=0):
    """Projected inputs (T, B, G * H) of another kind: with a bias, or looked up in a table of few or many."""
    rng, (time, batch, width) = np.random.default_rng(seed), xs.shape
    bias = jnp.asarray(rng.normal(size=width).astype(np.float32))
    if kind == "steps and bias":
        return Inputs(jnp.asarray(xs), bias)
    size = SMALL_VOCABULARY + 1 if kind == "large table" else 5
    ids = jnp.asarray(rng.integers(0, size, (time, batch)).astype(np.int32))
    table = jnp.asarray(rng.normal(size=(size, width)).astype(np.float32))
    return Inputs(table, bias if kind == "table and bias" else None, ids)


@every_loop
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["steps and bias", "table", "table and bias", "large table"])
def test_parts_of_inputs_are_what_they_make(half_precision, cell, kind, precision):
    """Outputs to the bit, and gradients of rows and bias, against XLA's loop over all of them."""
    weights, state, xs, scale = draw(cell, 6, 5, 33)
    inputs = parts(kind, xs)
    run = by(cell, "native", precision)
    for found, expected in zip(
        jax.tree.leaves(run(weights, state, inputs)),
        jax.tree.leaves(run(weights, state, inputs.steps())),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)

    def of_parts(rows, bias):
        return value(run, scale, weights, state, Inputs(rows, bias, inputs.ids))

    def of_all(rows, bias):
        whole = rows if inputs.ids is None else rows[inputs.ids]
        whole = whole if bias is None else whole + bias[None, None]
        return value(by(cell, "scan"), scale, weights, state, whole)

    found, expected = (jax.grad(function, (0, 1))(*inputs[:2]) for function in (of_parts, of_all))
    rough = 1e-5 if precision == "float32" else 0.02
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rough * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("backend", ["native", "scan"])
def test_a_bias_of_another_shape_is_refused(compiled_loops, backend):
    weights, state, xs, _ = jax.tree.map(jnp.asarray, draw(LSTM, 3, 2, 8))
    for shape in ((1,), (), (31,)):
        with pytest.raises(ValueError, match=r"expected a bias \(32,\) as rows have"):
            unrolled.unroll_layer(LSTM, weights, state, Inputs(xs, jnp.zeros(shape)), "float32", backend)


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=lambda cell: cell.name)
@pytest.mark.parametrize("openness", [9.0, 11.0, 30.0])
def test_gates_that_are_nearly_open_lose_no_gradient(half_precision, cell, openness):
    """What a state forgets in many steps is in their derivative, though a gate is nearly 1, or is 1."""
    weights, state, _ = cell_inputs(cell, 1, 2, 20)
    weights = jax.tree.map(jnp.zeros_like, weights)
    keeps = jnp.arange(cell.num_gates) == 1  # the forget gate, or z
    xs = jnp.broadcast_to(jnp.repeat(openness * keeps, 20)[None, None], (1500, 2, 20 * cell.num_gates))

    def kept(precision, state):
        last, _ = by(cell, "native", precision)(weights, state, xs)
        return jnp.sum(last.cell if cell is LSTM else last)

    found, exact = (jax.grad(partial(kept, precision))(state) for precision in ("bfloat16", "float32"))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-6)


@every_loop
def test_an_id_beyond_the_table_reads_no_other_memory(compiled_loops, cell):
    weights, state, xs, _ = draw(cell, 6, 5, 33)
    inputs = parts("table", xs)
    beyond = inputs._replace(ids=inputs.ids.at[0, 0].set(2**31 - 1).at[1, 1].set(-(2**31)))
    inside = inputs._replace(ids=inputs.ids.at[0, 0].set(4).at[1, 1].set(0))
    run = by(cell, "native")
    np.testing.assert_array_equal(run(weights, state, beyond)[1], run(weights, state, inside)[1])


def test_a_step_over_tokens_makes_no_array_of_float32_as_large_as_the_gates(half_precision, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    module = RecurrentLanguageModel(vocab_size=65, cell=LSTM, hidden_size=80, precision="bfloat16")
    model, tokens = bind(module), jnp.zeros((70, 9), jnp.int32)
    params = model.init(jax.random.key(0))
    carry = model.init_carry(params, 70)

    def loss(params):
        return jnp.sum(model.token_log_probs(params, carry, tokens, tokens, training=True)[1])

    text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    assert re.search(r"(?<!b)f16\[9,70,320\]", text) and "bf16[9,70,320]" in text
    assert "f32[9,70,320]" not in text and "f32[630,320]" not in text


def test_a_program_for_another_device_has_the_same_types(half_precision, monkeypatch):
    """Gates and deltas of XLA's loop are what they are of compiled ones, so that either can stand there."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    *arguments, scale = draw(LSTM, 3, 4, 8)
    slopes = jax.jit(jax.grad(partial(value, by(LSTM, "native", "bfloat16"), scale), (0, 1, 2)))
    text = slopes.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "lmseq_lstm" not in text and "3x4x32xf16" in text and "3x4x32xbf16" in text


@every_loop
def test_the_number_of_threads_changes_no_bit(compiled_loops, cell, monkeypatch):
    monkeypatch.setattr(library, "num_threads", lambda: 1)
    *arguments, scale = draw(cell, 5, 64, 200)
    results = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(library, "num_threads", lambda threads=threads: threads)
        slopes = jax.grad(partial(value, by(cell, "native"), scale), (0, 1, 2))(*arguments)
        results.append(jax.tree.map(np.asarray, (slopes, by(cell, "native")(*arguments))))
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)


@every_loop
def test_a_row_is_the_same_in_any_batch(compiled_loops, cell):
    weights, state, xs, _ = draw(cell, 4, 19, 40)
    run = by(cell, "native")
    whole = run(weights, state, xs)[1]
    for size in (1, 2, 7, 12):
        part = run(weights, jax.tree.map(lambda leaf, size=size: leaf[:size], state), xs[:, :size])[1]
        np.testing.assert_array_equal(part, whole[:, :size])


def test_programs_beside_each_other_take_turns_and_end(compiled_loops, monkeypatch):
    monkeypatch.setattr(library, "num_threads", lambda: 3)
    *arguments, scale = draw(LSTM, 20, 64, 128)
    slopes = jax.jit(jax.grad(partial(value, by(LSTM, "native"), scale), (0, 1, 2)))
    expected = jax.tree.map(np.asarray, slopes(*arguments))
    wrong = []

    def work():
        for _ in range(20):
            found = slopes(*arguments)
            same = jax.tree.map(lambda a, b: np.array_equal(a, b), found, expected)
            wrong.extend(each for each in jax.tree.leaves(same) if not each)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@every_loop
def test_what_is_not_a_number_or_very_large_goes_through(compiled_loops, cell):
    weights, state, xs, _ = draw(cell, 3, 4, 20)
    xs[1, 2] = np.nan
    xs[:, 3] = 1e30
    outputs = by(cell, "native")(weights, state, xs)[1]
    assert np.isnan(outputs[1:, 2]).all()
    assert np.isfinite(np.delete(outputs, 2, axis=1)).all()
    np.testing.assert_allclose(outputs, by(cell, "scan")(weights, state, xs)[1], atol=5e-6)


@every_loop
def test_transformations_of_a_program_keep_its_meaning(compiled_loops, cell):
    weights, state, xs, scale = draw(cell, 4, 6, 20)
    run = by(cell, "native")
    plain = partial(value, run, scale)
    expected = jax.grad(plain)(weights, state, xs)
    again = jax.grad(jax.checkpoint(plain))(weights, state, xs)
    jax.tree.map(np.testing.assert_array_equal, again, expected)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), weights)
    many = jax.vmap(jax.grad(plain), (0, None, None))(twice, state, xs)
    # The weights' gradients are products of XLA's, rounded otherwise in a batch by some processors.
    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda leaf, one: near(leaf[0], one), many, expected)
    halved = jax.tree.map(lambda leaf: 0.5 * leaf, weights)
    second = jax.grad(plain)(halved, state, xs)
    jax.tree.map(lambda leaf, one: near(leaf[1], one), many, second)


def test_no_steps_and_no_rows(compiled_loops):
    weights, state, xs, _ = draw(LSTM, 3, 4, 8)
    last, outputs = by(LSTM, "native")(weights, state, xs[:0])
    assert outputs.shape == (0, 4, 8)
    jax.tree.map(np.testing.assert_array_equal, last, state)
    nobody = jax.tree.map(lambda leaf: leaf[:0], state)
    assert by(LSTM, "native")(weights, nobody, xs[:, :0])[1].shape == (3, 0, 8)


def calls(run, *arguments, **shardings):
    return "lmseq_lstm_forward" in jax.jit(run, **shardings).lower(*arguments).as_text()


def test_auto_takes_them_where_a_program_has_its_device_to_itself(compiled_loops, monkeypatch):
    *arguments, _ = draw(LSTM, 3, 8, 8)
    assert jax.device_count() > 1 and not calls(by(LSTM, "auto"), *arguments)
    mesh = make_mesh(jax.devices()[:2])
    everywhere = jax.tree.map(lambda _: PartitionSpec(), tuple(arguments))
    alone = jax.shard_map(
        by(LSTM, "auto"), mesh=mesh, in_specs=everywhere, out_specs=PartitionSpec(), check_vma=False
    )
    assert calls(alone, *arguments)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert calls(by(LSTM, "auto"), *arguments)
    assert not calls(by(LSTM, "scan"), *arguments)
    with jax.enable_x64(True):
        assert not calls(
            by(LSTM, "auto"), *jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tuple(arguments))
        )
        weights, state, xs = arguments  # a state of float64 beside the others
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state)
        assert not calls(lambda xs: by(LSTM, "auto")(weights, wide, xs), xs)


def test_a_shared_batch_is_still_right(compiled_loops):
    weights, state, xs, _ = draw(LSTM, 3, 8, 8)
    mesh = make_mesh(jax.devices()[:2])
    rows = NamedSharding(mesh, PartitionSpec(None, "batch"))
    found = jax.jit(by(LSTM, "native"))(weights, state, jax.device_put(xs, rows))
    expected = by(LSTM, "native")(weights, state, xs)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_without_a_library_they_are_not_taken(monkeypatch):
    monkeypatch.setattr(library._Loaded, "library", None)
    *arguments, _ = draw(GRU, 3, 4, 8)
    with pytest.raises(ValueError, match="they are not there: `make native` compiles them"):
        by(GRU, "native")(*arguments)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "custom_call" not in jax.jit(by(GRU, "auto")).lower(*arguments).as_text()


def test_a_processor_without_bfloat16_says_so(compiled_loops, monkeypatch):
    class Older:
        @staticmethod
        def lmseq_has_bfloat16():
            return False

    monkeypatch.setattr(library._Loaded, "library", Older)
    with pytest.raises(ValueError, match="this processor has no bfloat16 products"):
        unrolled.check_backend("native", "bfloat16")
    unrolled.check_backend("native", "float32")


def test_a_damaged_library_is_refused(compiled_loops, tmp_path, monkeypatch):
    monkeypatch.setattr(library._Loaded, "library", None)
    path = tmp_path / "damaged.so"
    whole = compiled_loops.read_bytes()
    for content in (b"", b"\x7fELF but no library", whole[:3000], whole[:-1], whole[:-32]):
        path.write_bytes(content)
        with pytest.raises(OSError, match="is damaged: compile it again"):
            library.load(path)
    assert not library.is_loaded()


@pytest.mark.slow
def test_scripts_train_by_what_make_native_leaves(compiled_loops, tmp_path):
    """The library in the cache folder is found, is named when it is missing, and is not needed to score."""
    scripts, text = Scripts(tmp_path / "cache"), tmp_path / "text.txt"
    text.write_text("a rose is a rose is a rose, said the reader; and so it is. " * 60)
    common = [f"--corpus={text}", "--model=lstm", "--num_train_steps=40", *SMALL]

    def trained(backend):
        flags = f"--workdir={tmp_path / backend}", f"--backend={backend}"
        summary = scripts.summary("train_lm", *common, *flags)
        return summary["params_digest"], summary["valid_loss"]

    refused = scripts.run("train_lm", *common, f"--workdir={tmp_path / 'native'}", "--backend=native")
    assert refused.returncode == 2 and "`make native` compiles them" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1 and not (tmp_path / "native").exists()

    place = tmp_path / "cache" / "lmseq" / "native"
    place.mkdir(parents=True)
    shutil.copy(compiled_loops, place)
    found = scripts.summary("native")
    assert found["library"] == str(place / compiled_loops.name) and len(found["milliseconds"]) == 8
    assert found["counts_library"] == str(counts.LIBRARY.path(place))
    native_run, auto_run, scan_run = trained("native"), trained("auto"), trained("scan")
    assert native_run == auto_run
    assert native_run[0] != scan_run[0] and abs(native_run[1] - scan_run[1]) < 1e-3

    shutil.rmtree(place)
    scored = scripts.run("score_text", f"--run={tmp_path / 'native'}", "--text=a rose")
    assert scored.returncode == 0, scored.stderr


def test_the_script_says_what_it_lacks(tmp_path):
    done = Scripts(tmp_path).run("native", "--compiler=no_such_compiler")
    assert done.returncode == 2
    assert "error: expected a C++ compiler, cannot run no_such_compiler" in done.stderr.splitlines()[-1]
