"""X^T Y and sums by id by compiled routines: against NumPy, and where they are taken."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmseq.layers import LEAST, LEAST_FLOAT32, product, product_over_rows, product_with_rows, sum_by_id
from lmseq.recurrence import library

HALF, SINGLE = jnp.bfloat16, jnp.float32
# Rows before, rows, rows of Y, columns of X and of Y: whole tiles and panels, parts, one of everything, none.
SHAPES = [
    (0, 1120, 1120, 96, 128),
    (32, 200, 200, 100, 65),
    (3, 9, 10, 70, 200),
    (0, 7, 7, 5, 9),
    (2, 0, 1, 49, 64),
    (0, 1, 1, 1, 1),
    (0, 0, 0, 4, 5),
    (1, 2100, 2049, 13, 17),
]
PRECISIONS = ["float32", "bfloat16"]
LARGE = LEAST_FLOAT32 + 8


@pytest.fixture(autouse=True)
def one_device(compiled_loops, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(library, "num_threads", lambda: 2)


def need(precision):
    if not library.is_loaded(precision):
        pytest.skip("this processor has no bfloat16 products")


@pytest.fixture
def half_precision():
    need("bfloat16")


def draw(shape, kind, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), kind)


def compiled(precision, before, x, y):
    shapes = (x.shape[1], y.shape[1]), y.shape[1:]
    is_half = precision == "bfloat16"
    return library.call("product_over_rows", shapes, before, x, y, bfloat16=is_half)


def exact(precision, *arrays):
    """The product of operands rounded to the precision, and the sum of what was not rounded, in float64."""
    before, x, y = (np.asarray(array.astype(precision), np.float64) for array in arrays)
    return np.concatenate([before, x])[: len(y)].T @ y, np.sum(np.asarray(arrays[-1], np.float64), axis=0)


@pytest.mark.parametrize(
    "precision, kinds",
    [
        ("float32", (SINGLE, SINGLE)),
        ("bfloat16", (SINGLE, SINGLE)),
        ("bfloat16", (HALF, SINGLE)),
        ("bfloat16", (SINGLE, HALF)),
        ("bfloat16", (HALF, HALF)),
    ],
)
@pytest.mark.parametrize("num_before, rows, count, tall, wide", SHAPES)
def test_it_is_the_product(num_before, rows, count, tall, wide, precision, kinds):
    need(precision)
    arrays = (
        draw((num_before, tall), kinds[0], 0),
        draw((rows, tall), kinds[0], 1),
        draw((count, wide), kinds[1], 2),
    )
    for found, expected in zip(compiled(precision, *arrays), exact(precision, *arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * max(count, 1))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_number_of_threads_changes_no_bit(precision, monkeypatch):
    need(precision)
    arrays = draw((5, 200), SINGLE, 0), draw((1300, 200), SINGLE, 1), draw((1305, 300), SINGLE, 2)
    found = []
    for threads in (1, 2, 3, 9):
        monkeypatch.setattr(library, "num_threads", lambda threads=threads: threads)
        found.append(compiled(precision, *arrays))
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_takes_what_is_not_a_number(precision):
    need(precision)
    x = draw((66, 70), SINGLE, 0).at[3, 4].set(jnp.nan).at[5, 6].set(jnp.inf)
    found = np.asarray(compiled(precision, x[:0], x, jnp.ones((66, 64)))[0])
    assert np.isnan(found[4]).all() and np.isposinf(found[6]).all()
    assert np.isfinite(np.delete(found, [4, 6], axis=0)).all()


def test_what_does_not_fit_is_refused():
    x, y = draw((4, 5), SINGLE, 0), draw((6, 3), SINGLE, 1)
    for arrays in ((x[:0], x, y), (x[:0, :3], x, y[:4]), (x[:0].astype(HALF), x, y[:4])):
        with pytest.raises(Exception, match="expected rows of X for all of Y"):
            jax.block_until_ready(compiled("float32", *arrays))


@pytest.mark.parametrize(
    "precision, size, error", [("float32", LEAST_FLOAT32, 2e-6), ("bfloat16", LEAST, 0.03)]
)
@pytest.mark.parametrize("apply", [product, product_with_rows])
def test_derivatives_of_products_take_it(apply, precision, size, error, monkeypatch):
    """Where rows and columns are many; else XLA's."""
    need("bfloat16")

    def slopes(x, kernel, precision=precision):
        return jax.grad(lambda *both: jnp.sum(jnp.sin(apply(*both, precision))), (0, 1))(x, kernel)

    def calls_it(*arrays):
        return "lmseq_product_over_rows" in jax.jit(slopes).lower(*arrays).as_text()

    x, kernel = draw((3, size, size), SINGLE, 0), draw((size, size), SINGLE, 1) / np.sqrt(size)
    assert calls_it(x, kernel)
    assert not calls_it(x[:1, : size - 1], kernel) and not calls_it(x[..., 1:], kernel[1:, 1:])
    ours = jax.jit(slopes)(x, kernel)
    monkeypatch.setattr(library._Loaded, "library", None)
    for found, expected in zip(ours, slopes(x, kernel, "float32"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=error * np.abs(expected).max())


@pytest.mark.usefixtures("half_precision")
def test_many_cores_leave_few_columns_to_xla(monkeypatch):
    x = draw((LARGE, LARGE), SINGLE, 0)

    def calls_it(precision):
        program = jax.jit(partial(product_over_rows, precision=precision))
        return "lmseq_product_over_rows" in program.lower(x, x).as_text()

    assert calls_it("float32") and calls_it("bfloat16")
    monkeypatch.setattr(library, "num_threads", lambda: 16)
    assert not calls_it("float32") and calls_it("bfloat16")


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize(
    "precision, rows, columns, error", [("float32", LARGE, LARGE, 3e-4), ("bfloat16", 300, 80, 1e-4)]
)
def test_by_xla_and_compiled_are_the_same_product(precision, rows, columns, error, monkeypatch):
    sizes = (rows, columns), (rows + 10, columns + 10), (20, columns)
    arrays = [draw(size, SINGLE, seed) for seed, size in enumerate(sizes)]

    def apply(x, y, before):
        return product_over_rows(x, y, precision, before)

    assert "lmseq_product_over_rows" in jax.jit(apply).lower(*arrays).as_text()
    ours = apply(*arrays)
    monkeypatch.setattr(library._Loaded, "library", None)
    for found, expected in zip(ours, apply(*arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=error)


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_members_of_an_ensemble_have_their_own(precision):
    x, y = draw((3, LARGE, LARGE + 10), SINGLE, 0), draw((3, LARGE, LARGE + 20), SINGLE, 1)
    together = jax.vmap(partial(product_over_rows, precision=precision))(x, y)
    for number in range(3):
        alone = product_over_rows(x[number], y[number], precision)
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(found[number], expected)


# Rows, columns, ids: columns of one task and of several, of no whole vector; a table that fills a cache.
TABLES = [(300, 70, 5), (40, 1, 1), (0, 9, 3), (500, 1030, 65), (64, 100, 5000)]


def tables(rows, width, vocab_size, kind):
    ids = np.random.default_rng(0).integers(0, vocab_size, rows).astype(np.int32)
    return draw((rows, width), kind, 1), jnp.asarray(ids), vocab_size


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize("kind", [SINGLE, HALF])
@pytest.mark.parametrize("shape", TABLES)
def test_rows_are_added_by_id_one_after_the_other(shape, kind, monkeypatch):
    rows, ids, vocab_size = tables(*shape, kind)
    expected = np.zeros((vocab_size, rows.shape[1]), np.float32)
    np.add.at(expected, np.asarray(ids), np.asarray(rows, np.float32))
    for threads in (1, 2, 3, 9):
        monkeypatch.setattr(library, "num_threads", lambda threads=threads: threads)
        np.testing.assert_array_equal(sum_by_id(rows, ids, vocab_size, "bfloat16"), expected)


@pytest.mark.usefixtures("half_precision")
def test_an_id_of_no_token_adds_nothing():
    rows, ids = jnp.ones((4, 20)), jnp.asarray([-1, 0, 7, 2], jnp.int32)
    np.testing.assert_array_equal(sum_by_id(rows, ids, 3, "bfloat16")[:, 0], [1.0, 0.0, 1.0])


@pytest.mark.usefixtures("half_precision")
@pytest.mark.parametrize("shape", TABLES)
def test_sums_by_id_are_those_of_xla(shape, monkeypatch):
    found = sum_by_id(*tables(*shape, SINGLE), "bfloat16")
    exact = sum_by_id(*tables(*shape, SINGLE), "float32")
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4)
    monkeypatch.setattr(library._Loaded, "library", None)
    np.testing.assert_allclose(found, sum_by_id(*tables(*shape, SINGLE), "bfloat16"), rtol=0, atol=0.1)


def test_ids_that_do_not_fit_are_refused():
    with pytest.raises(Exception, match="expected an id for each row"):
        ids = jnp.zeros(3, jnp.int32)
        jax.block_until_ready(library.call("sum_by_id", [(5, 7)], ids, jnp.ones((4, 7))))
