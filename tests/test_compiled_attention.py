"""Attention by compiled loops against its definition in float64, and where it is taken."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from lmseq.config.language_model import ModelConfig
from lmseq.mixers.attention import Cache, attend
from lmseq.mixers.compiled_attention import attend_by
from lmseq.models.build import build_model
from lmseq.recurrence import library
from lmseq.training.sharding import make_mesh
from tests.test_attention import largest_array

pytestmark = pytest.mark.usefixtures("compiled_loops")

# (B, T, W, N, N_kv, d), and the tokens in the cache of each row: blocks of 64 queries and of 64 keys, whole
# and in parts, windows shorter than the sequence, longer, and of one token; widths of more than a panel.
CASES = [
    ((2, 1, 5, 2, 2, 2), (5, 0)),
    ((2, 2, 4, 4, 4, 6), (1, 4)),
    ((3, 7, 200, 4, 4, 8), (0, 200, 120)),
    ((2, 64, 64, 4, 2, 32), (0, 64)),
    ((2, 130, 70, 4, 1, 34), (3, 70)),
    ((1, 200, 1, 2, 2, 4), (1,)),
    ((1, 300, 100, 2, 2, 64), (50,)),
    ((1, 129, 128, 1, 1, 130), (128,)),
]
every_case = pytest.mark.parametrize(("sizes", "filled"), CASES, ids=lambda part: "x".join(map(str, part)))


def drawn(sizes, filled, seed=0, scale=1.0):
    """A cache of numbers also where it is not filled, queries, keys and values, float32."""
    batch, time, window, heads, shared, width = sizes
    rng = np.random.default_rng(seed)

    def rows(length, number):
        return jnp.asarray(scale * rng.normal(size=(batch, length, number, width)), jnp.float32)

    cache = Cache(rows(window, shared), rows(window, shared), jnp.asarray(filled, jnp.int32))
    return cache, rows(time, heads), rows(time, shared), rows(time, shared)


def slopes(run, cache, queries, keys, values):
    """What is read and the gradient of a weighed sum of it, with respect to all that are real numbers."""
    weights = np.cos(np.arange(queries.size)).reshape(queries.shape)

    def weighed(old_keys, old_values, queries, keys, values):
        read = run(Cache(old_keys, old_values, cache.filled), queries, keys, values)[1]
        return jnp.sum(weights.astype(queries.dtype) * read), read

    places = cache.keys, cache.values, queries, keys, values
    (_, read), found = jax.jit(jax.value_and_grad(weighed, range(5), has_aux=True))(*places)
    return read, *found


def compare(arguments, tolerance=2e-5):
    found = slopes(partial(attend_by, "native"), *arguments)
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: np.asarray(leaf, np.float64) if leaf.dtype == np.float32 else leaf, arguments
        )
        expected = slopes(attend, *wide)
    for ours, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            ours, exact, rtol=tolerance, atol=tolerance * max(1.0, np.abs(exact).max())
        )


@every_case
def test_what_is_read_and_its_gradients_are_those_of_the_definition(sizes, filled):
    arguments = drawn(sizes, filled)
    compare(arguments)
    after, expected = attend_by("native", *arguments)[0], attend(*arguments)[0]
    jax.tree.map(np.testing.assert_array_equal, after, expected)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_any_sizes(data):
    batch, shared = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    time, window = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    width = 2 * data.draw(st.integers(1, 20))
    filled = data.draw(st.lists(st.integers(0, window), min_size=batch, max_size=batch))
    compare(drawn((batch, time, window, shared * data.draw(st.integers(1, 3)), shared, width), filled))


def test_scores_of_any_size():
    """Weights of nearly one and nearly nothing: exp of the scores themselves would be infinite."""
    compare(drawn((1, 70, 40, 2, 2, 8), (13,), scale=10.0), tolerance=3e-4)
    found = slopes(partial(attend_by, "native"), *drawn((1, 70, 40, 2, 2, 8), (13,), scale=1e4))
    assert all(np.isfinite(each).all() for each in found)


def test_the_number_of_threads_changes_no_bit_and_a_row_is_the_same_in_any_batch(monkeypatch):
    sizes, filled = CASES[4]
    arguments = drawn(sizes, filled)
    results = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(library, "num_threads", lambda threads=threads: threads)
        results.append(slopes(partial(attend_by, "native"), *arguments))
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)
    first = jax.tree.map(lambda leaf: leaf[:1], arguments)
    np.testing.assert_array_equal(attend_by("native", *first)[1], results[0][0][:1])


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7FC001FF, 0x7F800001])
def test_a_key_that_is_not_a_number_reaches_those_who_see_it(bits):
    cache, queries, keys, values = drawn((1, 100, 30, 1, 1, 4), (0,))
    keys = keys.at[0, 20].set(np.array(bits, np.uint32).view(np.float32))
    read = attend_by("native", cache, queries, keys, values)[1][0, :, 0]
    assert np.isnan(read[20:50]).all()
    assert np.isfinite(read[:20]).all() and np.isfinite(read[50:]).all()


def test_transformations_of_a_program_keep_its_meaning():
    cache, queries, keys, values = drawn((2, 9, 5, 2, 2, 4), (0, 5))

    def loss(queries, keys):
        return jnp.sum(jnp.sin(attend_by("native", cache, queries, keys, values)[1]))

    expected = jax.grad(loss, (0, 1))(queries, keys)
    again = jax.grad(jax.checkpoint(loss), (0, 1))(queries, keys)
    jax.tree.map(np.testing.assert_array_equal, again, expected)
    twice = jnp.stack([queries, 0.5 * queries])
    many = jax.vmap(jax.grad(loss, (0, 1)), (0, None))(twice, keys)
    jax.tree.map(lambda leaf, one: np.testing.assert_array_equal(leaf[0], one), many, expected)


def test_no_rows():
    cache, *new = drawn((0, 3, 2, 1, 1, 2), ())
    assert attend_by("native", cache, *new)[1].shape == (0, 3, 1, 2)


def program(backend, arguments, platform="cpu"):
    def loss(queries):
        return jnp.sum(attend_by(backend, arguments[0], queries, *arguments[2:])[1])

    return jax.jit(jax.grad(loss)).trace(arguments[1]).lower(lowering_platforms=(platform,)).as_text()


def test_auto_takes_it_for_many_tokens_where_a_program_has_its_device_to_itself(monkeypatch):
    many, one = drawn((1, 4, 3, 1, 1, 2), (3,)), drawn((1, 1, 3, 1, 1, 2), (3,))
    assert jax.device_count() > 1 and "lmseq_attention" not in program("auto", many)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "lmseq_attention_backward" in program("auto", many)
    assert "lmseq_attention" not in program("scan", many) + program("auto", one)
    assert "lmseq_attention" not in program("auto", many, "cuda")


def test_a_part_of_a_program_over_devices_takes_it_where_nothing_is_checked():
    cache, *new = drawn((2, 4, 3, 1, 1, 2), (3, 0))
    mesh, rows = make_mesh(jax.devices()[:2]), PartitionSpec("batch")
    expected = attend(cache, *new)[1]
    for checks in (False, True):
        run = jax.jit(
            jax.shard_map(
                lambda *arrays: attend_by("auto", *arrays)[1],
                mesh=mesh,
                in_specs=rows,
                out_specs=rows,
                check_vma=checks,
            )
        )
        assert ("lmseq_attention_forward" in run.lower(cache, *new).as_text()) != checks
        np.testing.assert_allclose(run(cache, *new), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ((1, 4, 3, 3, 2, 2), "expected heads of keys that divide those of queries"),
        ((1, 4, 3, 1, 1, 3), "and an even number of features, got 1, 1 and 3"),
    ],
)
def test_what_it_does_not_take(sizes, says):
    with pytest.raises(ValueError, match=says):
        attend_by("native", *drawn(sizes, (3,)))
    with jax.enable_x64(True), pytest.raises(ValueError, match="are for float32, got float32, float64"):
        cache, queries, *more = drawn((1, 4, 3, 1, 1, 2), (3,))
        attend_by("native", cache, queries.astype(np.float64), *more)


def test_no_array_grows_with_the_tokens_times_the_window(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    loops = partial(attend_by, "auto")
    assert largest_array(1024, 256, loops) == 2 * 1024  # keys
    assert largest_array(1024, 256) > 100 * 1024


def test_without_a_library_it_is_not_taken(monkeypatch):
    monkeypatch.setattr(library._Loaded, "library", None)
    arguments = drawn((1, 4, 3, 1, 1, 2), (3,))
    with pytest.raises(ValueError, match="they are not there: `make native` compiles them"):
        attend_by("native", *arguments)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "lmseq_attention" not in program("auto", arguments)


def test_a_model_of_attention_has_the_same_scores_and_gradients():
    tokens = jnp.asarray(np.random.default_rng(0).integers(11, size=(2, 40)))

    def found(backend):
        config = ModelConfig(model="attention", num_layers=2, hidden_size=16, window=9, backend=backend)
        model = build_model(config, 11)
        params = model.init(jax.random.key(0))

        def loss(params):
            carry = model.init_carry(params, 2)
            for part in (slice(0, 17), slice(17, 39)):
                inputs, targets = tokens[:, part], tokens[:, part.start + 1 : part.stop + 1]
                carry, log_probs = model.token_log_probs(params, carry, inputs, targets)
            return -jnp.mean(log_probs)

        return jax.jit(jax.value_and_grad(loss))(params)

    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(near, found("native"), found("scan"))
