"""Products: affine maps, lookups, the softmax; each with the derivative that is fastest. And dropout.

A product may be taken in bfloat16: both operands are rounded to it and the sum is kept in float32, which
is what processors with such units do at twice the speed of float32; or in tf32, operands rounded to 10 bits
behind the point, which GPUs from Ampere on do faster than float32 and all else takes for float32. Everything
else stays float32.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from lmseq.noise import by_rows
from lmseq.recurrence import library
from lmseq.types import PRNGKey

SMALL_VOCABULARY = 512  # of which a lookup's gradient is a product
Precision = Literal["float32", "tf32", "bfloat16"]


def _exactness(precision: Precision) -> lax.Precision:
    """What XLA calls it: of a float32 product it would else take the fastest form that a GPU has."""
    return lax.Precision.HIGHEST if precision == "float32" else lax.Precision.DEFAULT


def rounded(x: Float[Array, "*dims"], precision: Precision) -> Float[Array, "*dims"]:
    """An operand of a product: as it is, or in bfloat16."""
    return x.astype(jnp.bfloat16) if precision == "bfloat16" else x


def product(
    x: Float[Array, "*dims feature"], kernel: Float[Array, "feature out"], precision: Precision = "float32"
) -> Float[Array, "*dims out"]:
    """x W over the last axis of x (..., D), accumulated in float32 (of float64 operands in float64).

    The derivative's products are taken in the same precision; the kernel's stays in the kernel's type.
    """
    return _product(x, kernel, precision, 0)


def product_with_rows(
    x: Float[Array, "*dims feature"], rows: Float[Array, "out feature"], precision: Precision = "float32"
) -> Float[Array, "*dims out"]:
    """x R^T, as `product`, for rows (O, D) that lie in memory one after the other."""
    return _product(x, rows, precision, 1)


def matmul_along(
    x: Float[Array, "..."], y: Float[Array, "..."], over_x: int, over_y: int, precision: Precision
) -> Float[Array, "..."]:
    """Matrices x and y multiplied along one axis each, without a derivative of its own."""
    x, y = rounded(x, precision), rounded(y, precision)
    kind = jnp.float32 if precision == "bfloat16" else None
    axes = (((over_x,), (over_y,)), ((), ()))
    return lax.dot_general(x, y, axes, precision=_exactness(precision), preferred_element_type=kind)


def _matrix(x: Float[Array, "..."]) -> Float[Array, "rows feature"]:
    return x.reshape(-1, x.shape[-1])


# Rows, and columns of either factor, from which on the compiled product is worth its call. In float32 a step
# would gain little of smaller ones, and cores share the columns of Y out by so many.
LEAST, LEAST_FLOAT32, COLUMNS_A_CORE = 64, 512, 64


def product_over_rows(
    x: Float[Array, "_ feature"],
    y: Float[Array, "rows out"],
    precision: Precision,
    before: Float[Array, "_ feature"] | None = None,
) -> tuple[Float[Array, "feature out"], Float[Array, "out"]]:
    """sum_r x_r y_r^T = X^T Y and sum_r y_r, the gradients of a kernel and a bias, without their own.

    before: rows that stand before the first of x, of which as many of the last are left out then. The sum is
    one of y as it is, in float32 or more. Large ones on a CPU are compiled beforehand, where that is loaded:
    XLA turns one of the operands first, and takes a product in bfloat16 that is contracted along first axes
    in float32, of operands rounded to bfloat16.
    """
    if before is None:
        before = jnp.zeros((0, x.shape[1]), x.dtype)

    def by_xla(before: Array, x: Array, y: Array) -> tuple[Array, Array]:
        total = jnp.sum(y, axis=0, dtype=jnp.promote_types(y.dtype, jnp.float32))
        if size := len(before):  # taken apart: putting them before the others would copy all of these
            rest = matmul_along(x[: len(y) - size], y[size:], 0, 0, precision)
            return matmul_along(before, y[:size], 0, 0, precision) + rest, total
        # In this order XLA turns the cotangent: the other factor is often made anew where it is turned.
        return matmul_along(y, x, 0, 0, precision).T, total

    is_half = precision == "bfloat16"

    def compiled(*arrays: Array) -> tuple[Array, Array]:
        shapes = (x.shape[1], y.shape[1]), y.shape[1:]
        return tuple(library.call("product_over_rows", shapes, *arrays, bfloat16=is_half))

    least, types = LEAST, (jnp.float32, jnp.bfloat16)
    if not is_half:
        least, types = max(LEAST_FLOAT32, COLUMNS_A_CORE * library.num_threads()), (jnp.float32,)
    is_large = min(*x.shape, *y.shape) >= least and before.dtype == x.dtype
    # In float32 it was measured on processors that have products in bfloat16, and is taken on these alone.
    if is_large and library.suits("bfloat16", before, x, y, types=types):
        return lax.platform_dependent(before, x, y, cpu=compiled, default=by_xla)
    return by_xla(before, x, y)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x, kernel, precision, axis):
    found = matmul_along(_matrix(x), kernel, 1, axis, precision)
    return found.reshape(*x.shape[:-1], kernel.shape[1 - axis])


def _product_forward(x, kernel, precision, axis):
    x, kernel = rounded(x, precision), rounded(kernel, precision)
    return _product(x, kernel, precision, axis), (x, kernel)


def _product_backward(precision, axis, residuals, cotangent):
    x, kernel = residuals
    cotangent = rounded(cotangent, precision)
    slope = matmul_along(_matrix(cotangent), kernel, 1, 1 - axis, precision).reshape(x.shape)
    factors = _matrix(x), _matrix(cotangent)
    return slope, product_over_rows(*(factors[::-1] if axis else factors), precision)[0]


_product.defvjp(_product_forward, _product_backward)


def affine(
    x: Float[Array, "*dims feature"],
    kernel: Float[Array, "feature out"],
    bias: Float[Array, "out"],
    precision: Precision = "float32",
) -> Float[Array, "*dims out"]:
    """x W + b over the last axis of x (..., D), the bias broadcast explicitly."""
    result = product(x, kernel, precision)
    return result + jnp.broadcast_to(bias, result.shape)


def has_dropout(rate: float | Float[Array, ""]) -> bool:
    """Whether anything is dropped at a rate: not at the number 0; a traced rate may be any."""
    return not (isinstance(rate, float | int) and not rate)


def drop(
    x: Float[Array, "*dims"],
    rate: float | Float[Array, ""],
    key: PRNGKey | None,
    mask_shape: tuple[int, ...] | None = None,
    batch_axis: int = 0,
) -> Float[Array, "*dims"]:
    """Inverted dropout (Srivastava et al. 2014): x / (1 - rate) where the mask holds, else 0.

    The mask has x's shape, or one that broadcasts to it. A row's mask is the same however the batch is shared
    out; batch_axis says where the rows are. Without a key, or at a rate that is the number 0 and
    not traced, x as it is.
    """
    if key is None or not has_dropout(rate):
        return x
    kept = jax.random.bernoulli(by_rows(key, batch_axis), 1.0 - rate, mask_shape or x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


def sum_by_id(
    rows: Float[Array, "*dims feature"],
    ids: Int[Array, "*dims"],
    vocab_size: int,
    precision: Precision = "float32",
) -> Float[Array, "vocab feature"]:
    """The sum of the rows (..., D) of each id (...), (V, D), in float32 or more: the gradient of a lookup.

    It is a product with the one-hot ids instead of a scatter, which on a CPU is several times faster for
    vocabularies of a few hundred symbols, and deterministic everywhere. In bfloat16 on a CPU it is compiled
    beforehand, where that is loaded, and adds the rows as they are.
    """
    ids, rows = ids.reshape(-1), _matrix(rows)

    def by_xla(ids: Array, rows: Array) -> Array:
        one_hot = jax.nn.one_hot(ids, vocab_size, dtype=rows.dtype)
        return matmul_along(one_hot, rows, 0, 0, precision)

    def compiled(*arrays: Array) -> Array:
        return library.call("sum_by_id", [(vocab_size, rows.shape[1])], *arrays)[0]

    types = jnp.int32, jnp.float32, jnp.bfloat16
    if (
        precision == "bfloat16"
        and ids.dtype == jnp.int32
        and library.suits(precision, ids, rows, types=types)
    ):
        return lax.platform_dependent(ids, rows, cpu=compiled, default=by_xla)
    return by_xla(ids, rows)


@jax.custom_vjp
def lookup(table: Float[Array, "vocab feature"], ids: Int[Array, "*dims"]) -> Float[Array, "*dims feature"]:
    """Rows of a small table (V, D) by ids (...): (..., D). Its gradient is `sum_by_id`."""
    return table[ids]


def _lookup_forward(table, ids):
    return table[ids], (ids, table.shape[0])


def _lookup_backward(residuals, cotangent):
    ids, vocab_size = residuals
    return sum_by_id(cotangent, ids, vocab_size), None


lookup.defvjp(_lookup_forward, _lookup_backward)


def rows_of(table: Float[Array, "vocab feature"], ids: Int[Array, "*dims"]) -> Float[Array, "*dims feature"]:
    """Rows of a table of any size by ids (...), with the gradient that suits it: (..., D)."""
    return lookup(table, ids) if len(table) <= SMALL_VOCABULARY else table[ids]


def mean_minus_target(
    hidden: Float[Array, "*dims hidden"],
    kernel: Float[Array, "hidden vocab"],
    bias: Float[Array, "vocab"],
    targets: Int[Array, "*dims"],
) -> Float[Array, "*dims"]:
    """The mean over the vocabulary of log softmax(z) less that of the target, z = h W + b: (...).

    The normaliser cancels, so that it is mean_v z_v - z_target, without any (..., V). What label smoothing
    (Szegedy et al. 2016) at a rate e adds to the target's log-probability is e times this.
    """
    mean = product(hidden, jnp.mean(kernel, axis=1, keepdims=True))[..., 0] + jnp.mean(bias)
    return mean - jnp.sum(hidden * rows_of(kernel.T, targets), axis=-1) - bias[targets]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def softmax_log_probs(
    hidden: Float[Array, "*dims hidden"],
    kernel: Float[Array, "hidden vocab"],
    bias: Float[Array, "vocab"],
    targets: Int[Array, "*dims"],
    precision: Precision = "float32",
) -> Float[Array, "*dims"]:
    """log softmax(h W + b) at the targets (...), in nats: (...).

    Rows are taken in chunks of at most CHUNK logits, so that of a long batch over a large vocabulary no two
    arrays (..., V) are ever alive; a chunk's logits are made again for the derivative unless there is one
    chunk only. The derivative with respect to the logits is (1[v = target] - softmax) times the
    cotangent, taken in one pass.
    """
    return _softmax_forward(hidden, kernel, bias, targets, precision)[0]


CHUNK = 1 << 24


def _chunks(num_rows: int, vocab_size: int) -> int:
    """The smallest number of equal chunks of rows whose logits are CHUNK or fewer."""
    least = -(-num_rows * vocab_size // CHUNK)
    return next(n for n in range(min(max(least, 1), num_rows), num_rows + 1) if num_rows % n == 0)


def _logits(hidden, kernel, bias, precision):
    return matmul_along(hidden, kernel, 1, 0, precision) + bias[None]


def _softmax_forward(hidden, kernel, bias, targets, precision):
    rows, flat = _matrix(hidden), targets.reshape(-1)
    used = rounded(kernel, precision)
    count = _chunks(*flat.shape, *bias.shape)

    def look(rows, targets):
        logits = _logits(rows, used, bias, precision)
        top = jnp.max(logits, axis=-1, keepdims=True)
        normalizer = top[:, 0] + jnp.log(jnp.sum(jnp.exp(logits - top), axis=-1))
        at_target = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return at_target - normalizer, normalizer, logits

    if count == 1:
        log_probs, normalizer, logits = look(rows, flat)
    else:
        parts = rows.reshape(count, -1, rows.shape[1]), flat.reshape(count, -1)
        log_probs, normalizer = lax.map(lambda part: look(*part)[:2], parts)
        logits = None
    residuals = hidden, kernel, bias, targets, normalizer.reshape(-1), logits
    return log_probs.reshape(targets.shape), residuals


def _softmax_backward(precision, residuals, cotangent):
    hidden, kernel, bias, targets, normalizer, logits = residuals
    rows, used = _matrix(hidden), rounded(kernel, precision)
    count = _chunks(targets.size, bias.size)

    def slopes(rows, targets, normalizer, cotangent, logits=None):
        if logits is None:
            logits = _logits(rows, used, bias, precision)
        hit = targets[:, None] == jnp.arange(bias.size)[None]
        delta = rounded((hit - jnp.exp(logits - normalizer[:, None])) * cotangent[:, None], precision)
        return matmul_along(delta, used, 1, 1, precision), *product_over_rows(rows, delta, precision)

    parts = rows, targets.reshape(-1), normalizer, cotangent.reshape(-1)
    if count == 1:
        d_rows, d_kernel, d_bias = slopes(*parts, logits)
    else:

        def add(total, part):
            d_rows, *more = slopes(*part)
            return jax.tree.map(jnp.add, total, more), d_rows

        parts = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), parts)
        zeros = [jnp.zeros_like(kernel), jnp.zeros_like(bias)]
        (d_kernel, d_bias), d_rows = lax.scan(add, zeros, parts)
    return d_rows.reshape(hidden.shape), d_kernel, d_bias, None


softmax_log_probs.defvjp(_softmax_forward, _softmax_backward)
