"""Recurrences whose state is a matrix: the step, and the chunked form that equals its scan.

    S_t = A_t S_{t-1} + k_t u_t^T,   o_t = S_t^T q_t,   S in R^{d_k x d_v} a head
    u_t = b_t v_t                                  A_t = diag(alpha_t)
    u_t = b_t (v_t - (A_t S_{t-1})^T k_t)          the same with the delta rule

The second line is S_t = (I - b_t k_t k_t^T) A_t S_{t-1} + b_t k_t v_t^T. With decays alpha_t of 1, one number
a head, or one a row of S, it holds linear attention (Katharopoulos et al. 2020), RetNet (Sun et al. 2023),
Mamba-2 (Dao and Gu 2024), GLA (Yang et al. 2024), DeltaNet (Schlag et al. 2021) and Gated DeltaNet (Yang et
al. 2025).

A chunk of C steps is a few products, because inside it every u_j reaches step i by a decay alone:

    S_i = diag(e^{L_i}) S_0 + sum_{j <= i} diag(e^{L_i - L_j}) k_j u_j^T,   L_i = sum_{l <= i} log alpha_l

Of the delta rule's u the same sum gives a triangular system (the WY form of Yang et al. 2024, "Parallelizing
linear transformers with the delta rule over sequence length"). Nothing but sums of log alpha between two
steps is ever exponentiated, and each is added up by itself: no overflow, and no difference of large numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

State = Float[Array, "batch head key value"]
Chunks = Float[Array, "batch head chunk time _"]
Square = Float[Array, "batch head chunk time time"]


class Steps(NamedTuple):
    """What drives T steps. The arrays of one step have no time axis.

    query, key: (B, T, N, d_k). value: (B, T, N, d_v). strength: b_t (B, T, N), or None for 1. log_decay:
    log alpha_t, at most 0: (B, T, N) or (B, T, N, d_k), where B may be 1; None for no decay.
    """

    query: Float[Array, "batch *time head key"]
    key: Float[Array, "batch *time head key"]
    value: Float[Array, "batch *time head value"]
    strength: Float[Array, "batch *time head"] | None = None
    log_decay: Float[Array, "..."] | None = None


def matrix_step(state: State, step: Steps, *, delta_rule: bool = False) -> tuple[State, Array]:
    """One step: the next state (B, N, d_k, d_v) and its output o (B, N, d_v)."""
    with jax.default_matmul_precision("highest"):
        return _step(state, step, delta_rule)


def _step(state: State, step: Steps, delta_rule: bool) -> tuple[State, Array]:
    if step.log_decay is not None:
        decay = jnp.exp(step.log_decay)
        state = state * (decay[..., None, None] if decay.ndim == 2 else decay[..., None])
    inflow = step.value
    if delta_rule:
        inflow = inflow - jnp.einsum("bnkv,bnk->bnv", state, step.key)
    if step.strength is not None:
        inflow = step.strength[..., None] * inflow
    state = state + step.key[..., None] * inflow[..., None, :]
    return state, jnp.einsum("bnkv,bnk->bnv", state, step.query)


def matrix_states(
    state: State, steps: Steps, *, delta_rule: bool = False, chunk: int = 64
) -> tuple[State, Float[Array, "batch time head value"]]:
    """The last state and the outputs (B, T, N, d_v) of a scan of `matrix_step`, by chunks of C steps.

    Products are in the arrays' own type, on GPUs too, where float32 is else rounded: decays are sums that
    are exponentiated. chunk: C, a power of two; of a shorter sequence the next power of two. Raises
    ValueError for another.
    """
    if chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"expected a chunk of a power of two steps, got {chunk}")
    length = steps.query.shape[1]
    size = min(chunk, 1 << (length - 1).bit_length())
    number = -(-length // size)
    with jax.default_matmul_precision("highest"):
        return _by_chunks(state, steps, delta_rule, number, size)


def _by_chunks(
    state: State, steps: Steps, delta_rule: bool, number: int, size: int
) -> tuple[State, Float[Array, "batch time head value"]]:
    length = steps.query.shape[1]
    # Steps that do nothing fill the last chunk: no decay, and a key of zeros.
    steps = jax.tree.map(lambda leaf: _in_chunks(leaf, number, size), steps)
    query, key, decay = steps.query, steps.key, steps.log_decay
    since, until = _decays(decay)
    within = decayed_products(query, key, decay)
    written = _scaled(key, until)
    if delta_rule:
        system, known = _delta_system(steps, since)
        last, begins, inflow = _chain_delta(state, system, known, written, _total(since))
    else:
        inflow = steps.value if steps.strength is None else steps.strength[..., None] * steps.value
        last, begins = _chain(state, jnp.swapaxes(written, -1, -2) @ inflow, _total(since))
    outputs = within @ inflow + _scaled(query, since) @ begins
    outputs = jnp.moveaxis(outputs, 1, 3).reshape(outputs.shape[0], number * size, *outputs.shape[1:2], -1)
    return last, outputs[:, :length]


def _in_chunks(leaf: Array, number: int, size: int) -> Array:
    """(B, T, N, ...) as (B, N, number, size, ...), zeros after the end."""
    filled = jnp.pad(leaf, [(0, 0), (0, number * size - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2))
    return jnp.moveaxis(filled.reshape(leaf.shape[0], number, size, *leaf.shape[2:]), 3, 1)


def _lower(size: int, like: Array, diagonal: int = 0) -> Float[Array, "time time"]:
    return jnp.tril(jnp.ones((size, size), like.dtype), diagonal)


def _lower_upper(size: int, like: Array) -> tuple[Array, Array]:
    return _lower(size, like), _lower(size, like, -1).T


def _decays(log_decay: Array | None) -> tuple[Array | None, Array | None]:
    """L_i, from the chunk's start to each step, its own decay among them; L_C - L_j, the decays after each.

    One product each with a matrix of zeros and ones, and no cumulation.
    """
    if log_decay is None:
        return None, None
    letters = "bncl" if log_decay.ndim == 4 else "bncld"
    form = f"il,{letters}->{letters.replace('l', 'i')}"
    since, until = (jnp.einsum(form, ones, log_decay) for ones in _lower_upper(log_decay.shape[3], log_decay))
    return since, until


def _total(since: Array | None) -> Array | None:
    """e^{L_C}, as a factor of the state of each chunk: (B, N, number, d_k or 1, 1)."""
    if since is None:
        return None
    last = jnp.exp(since[:, :, :, -1])
    return last[..., None, None] if since.ndim == 4 else last[..., None]


def _scaled(rows: Chunks, log_factor: Array | None) -> Chunks:
    if log_factor is None:
        return rows
    return rows * jnp.exp(log_factor[..., None] if log_factor.ndim == 4 else log_factor)


def decayed_products(left: Chunks, right: Chunks, log_decay: Array | None) -> Square:
    """sum_d left_id right_jd e^{L_id - L_jd} for j <= i, else 0: (..., C, C)."""
    if log_decay is None or log_decay.ndim == 4:
        products = left @ jnp.swapaxes(right, -1, -2)
        if log_decay is None:
            return jnp.tril(products)
        return products * jnp.exp(_between(log_decay))
    return _by_halves(left, right, log_decay)


def _between(log_decay: Float[Array, "batch head chunk time"]) -> Square:
    """sum_{l = j + 1 ... i} log alpha_l for j <= i, of each pair its own sum; -inf above the diagonal.

    In blocks: what is left of j's, the blocks between, and what i's has had; added, and nothing taken off.
    """
    *lead, size = log_decay.shape
    width = 1 << (size.bit_length() // 2)
    blocks = log_decay.reshape(*lead, size // width, width)
    since, until = (jnp.einsum("il,...l->...i", ones, blocks) for ones in _lower_upper(width, blocks))
    inside = _pair_sums(blocks)
    # Of blocks b < a the sum over those between: pairs (a - 1, b), and none where a = b + 1.
    totals = since[..., -1]
    skipped = jnp.pad(_pair_sums(totals)[..., :-1, :], [(0, 0)] * len(lead) + [(1, 0), (0, 0)])
    number = size // width
    shape = (*lead, number, width, number, width)
    apart = (
        jnp.broadcast_to(since[..., None, None], shape)
        + jnp.broadcast_to(skipped[..., :, None, :, None], shape)
        + jnp.broadcast_to(until[..., None, None, :, :], shape)
    )
    place = jnp.arange(number)
    same, later = (
        jnp.broadcast_to(mask[:, None, :, None], shape)
        for mask in (place[:, None] == place[None], place[:, None] > place[None])
    )
    upper = jnp.broadcast_to(jnp.arange(width)[:, None] < jnp.arange(width)[None], inside.shape)
    inside = jnp.broadcast_to(jnp.where(upper, -jnp.inf, inside)[..., None, :], shape)
    return jnp.where(same, inside, jnp.where(later, apart, -jnp.inf)).reshape(*lead, size, size)


def _pair_sums(log_decay: Float[Array, "*dims time"]) -> Float[Array, "*dims time time"]:
    """sum_{l = j + 1 ... i} log alpha_l for j <= i, else 0, by one product with the numbers after each j."""
    size = log_decay.shape[-1]
    after = jnp.tril(jnp.broadcast_to(log_decay[..., None], (*log_decay.shape, size)), -1)
    return jnp.einsum("il,...lj->...ij", _lower(size, log_decay), after)


def _by_halves(left: Chunks, right: Chunks, log_decay: Array) -> Square:
    """Blocks on the diagonal, twice as large each time.

    The later half's rows decay from the middle on, the earlier half's rows to it: both factors are at most 1.
    """
    size, lead = left.shape[-2], left.shape[:-2]
    blocks = jnp.sum(left * right, axis=-1)[..., None, None]
    width = 1
    while width < size:
        later, earlier = _halves(left, width)[1], _halves(right, width)[0]
        decay_earlier, decay_later = _halves(jnp.broadcast_to(log_decay, left.shape), width)
        ones = _lower(width, left)
        later = later * jnp.exp(jnp.einsum("il,...ld->...id", ones, decay_later))
        earlier = earlier * jnp.exp(jnp.einsum("il,...ld->...id", _lower(width, left, -1).T, decay_earlier))
        blocks = _joined(blocks, later @ jnp.swapaxes(earlier, -1, -2))
        width *= 2
    return blocks.reshape(*lead, size, size)


def _halves(rows: Array, width: int) -> tuple[Array, Array]:
    """(..., C, d) as earlier and later halves of blocks of 2 w steps, (..., C / 2w, w, d) each."""
    pairs = rows.reshape(*rows.shape[:-2], -1, 2, width, rows.shape[-1])
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def _joined(blocks: Array, below: Array) -> Array:
    """Pairs of triangular blocks (..., 2 n, w, w), and what is below each first: (..., n, 2 w, 2 w)."""
    first, second = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
    upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
    return jnp.concatenate([upper, jnp.concatenate([below, second], axis=-1)], axis=-2)


def _inverse(below: Square) -> Square:
    """(I + N)^{-1} of N below the diagonal, by halves: [[A, 0], [N', D]] has -D^{-1} N' A^{-1} below.

    LAPACK's triangular solution would leave XLA, one matrix at a time.
    """
    size, lead = below.shape[-1], below.shape[:-2]
    blocks = jnp.ones((*lead, size, 1, 1), below.dtype)
    width = 1
    while width < size:
        cross = _below_diagonal(below, width)
        if width > 1:
            cross = blocks[..., 1::2, :, :] @ cross @ blocks[..., 0::2, :, :]
        blocks = _joined(blocks, -cross)
        width *= 2
    return blocks.reshape(*lead, size, size)


def _below_diagonal(square: Square, width: int) -> Array:
    """The lower left (w, w) of each block of (2 w, 2 w) on the diagonal, (..., C / 2w, w, w)."""
    number = square.shape[-1] // (2 * width)
    blocks = square.reshape(*square.shape[:-2], number, 2 * width, number, 2 * width)
    diagonal = jnp.diagonal(blocks[..., width:, :, :width], axis1=-4, axis2=-2)
    return jnp.moveaxis(diagonal, -1, -3)


def _chain(state: State, inflow: Array, factor: Array | None) -> tuple[State, Array]:
    """The last state, and the one that each chunk begins with, (B, N, number, d_k, d_v)."""

    def across(state, chunk):
        inflow, factor = chunk
        return inflow + (state if factor is None else factor * state), state

    chunks = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), (inflow, factor))
    last, begins = lax.scan(across, state, chunks)
    return last, jnp.moveaxis(begins, 0, 2)


def _delta_system(steps: Steps, since: Array | None) -> tuple[Chunks, Chunks]:
    """W and P with u = P - W S_0 in a chunk: (I + N) [W, P] = b [K e^L, V].

    N_ij = b_i (k_i e^{L_i - L_j}) k_j, below the diagonal.
    """
    key = steps.key
    sides = jnp.concatenate([_scaled(key, since), steps.value], axis=-1)
    square = jnp.tril(decayed_products(key, key, steps.log_decay), -1)
    if steps.strength is not None:
        sides, square = steps.strength[..., None] * sides, steps.strength[..., None] * square
    solved = _inverse(square) @ sides
    return solved[..., : key.shape[-1]], solved[..., key.shape[-1] :]


def _chain_delta(
    state: State, system: Chunks, known: Chunks, written: Chunks, factor: Array | None
) -> tuple[State, Array, Chunks]:
    """As `_chain`, where what flows in depends on the state; and what did, u (B, N, number, C, d_v)."""

    def across(state, chunk):
        system, known, written, factor = chunk
        inflow = known - system @ state
        kept = state if factor is None else factor * state
        return kept + jnp.swapaxes(written, -1, -2) @ inflow, (state, inflow)

    chunks = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), (system, known, written, factor))
    last, kept = lax.scan(across, state, chunks)
    return last, *(jnp.moveaxis(leaf, 0, 2) for leaf in kept)
