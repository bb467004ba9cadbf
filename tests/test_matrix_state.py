"""Matrix states by chunks against a NumPy loop over their steps, and against the scan of `matrix_step`."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmseq.mixers.matrix_state import Steps, matrix_states, matrix_step

B, N, KEY, VALUE = 2, 2, 5, 3
DECAYS = ("none", "fixed", "scalar", "vector")
CHUNKS, LENGTHS = (1, 4, 16, 64), (1, 2, 7, 64, 130)
KINDS = list(product(DECAYS, (False, True)))
EVERY = list(product(KINDS, CHUNKS, LENGTHS))
# Each chunk and each length, where one divides the other and where not; each kind has half of these, and the
# slow test all there are.
PAIRS = ((64, 130), (64, 1), (4, 2), (1, 7), (16, 7), (4, 64))
SOME = [(kind, *pair) for i, kind in enumerate(KINDS) for j, pair in enumerate(PAIRS) if (i + j) % 2 == 0]
every_kind = pytest.mark.parametrize(("decay", "delta_rule"), KINDS)


def drawn(length: int, decay: str, delta_rule: bool = False, seed: int = 0):
    """A state that is not fresh and what drives it, NumPy float64; a vector decay has steps of -20 too."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(B, N, KEY, VALUE))
    query, key = rng.normal(size=(2, B, length, N, KEY)) / KEY**0.5
    value = rng.normal(size=(B, length, N, VALUE))
    strength = None
    if delta_rule:  # up to 2, which turns the sign of what a key held
        key /= np.linalg.norm(key, axis=-1, keepdims=True)
        strength = rng.uniform(0.0, 2.0, size=(B, length, N))
    shapes = {"fixed": (1, length, N), "scalar": (B, length, N), "vector": (B, length, N, KEY)}
    log_decay = None
    if decay != "none":
        log_decay = -rng.uniform(0.0, 0.3, size=shapes[decay])
        log_decay[..., 0] -= 20.0 * (rng.uniform(size=log_decay.shape[:-1]) < 0.1)
    return state, Steps(query, key, value, strength, log_decay)


def by_numpy(state, steps: Steps, delta_rule: bool):
    """S_t = M_t diag(alpha_t) S_{t-1} + b_t k_t v_t^T, with M_t = I - b_t k_t k_t^T of the delta rule."""
    query, key, value, strength, log_decay = steps
    outputs, last = np.empty(value.shape), np.empty(state.shape)
    for row, head in product(range(B), range(N)):
        s = state[row, head]
        for t in range(value.shape[1]):
            k, v = key[row, t, head], value[row, t, head]
            b = 1.0 if strength is None else strength[row, t, head]
            transition = np.eye(KEY) - b * np.outer(k, k) if delta_rule else np.eye(KEY)
            if log_decay is not None:
                logs = np.broadcast_to(log_decay, (B, *log_decay.shape[1:]))[row, t, head]
                transition = transition @ np.diag(np.exp(np.broadcast_to(logs, (KEY,))))
            s = transition @ s + b * np.outer(k, v)
            outputs[row, t, head] = s.T @ query[row, t, head]
        last[row, head] = s
    return last, outputs


@partial(jax.jit, static_argnames=("delta_rule", "chunk"))
def by_chunks(state, steps, *, delta_rule=False, chunk=64):
    return matrix_states(state, steps, delta_rule=delta_rule, chunk=chunk)


@partial(jax.jit, static_argnames="delta_rule")
def by_scan(state, steps, *, delta_rule=False):
    def step(state, now):
        return matrix_step(state, now, delta_rule=delta_rule)

    def time_first(leaf):
        return jnp.moveaxis(jnp.broadcast_to(leaf, (len(state), *leaf.shape[1:])), 1, 0)

    last, outputs = lax.scan(step, state, jax.tree.map(time_first, steps))
    return last, jnp.moveaxis(outputs, 0, 1)


def on_device(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def assert_near(found, expected, tolerance: float) -> None:
    """No entry further off than the tolerance times the largest."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        off, largest = (np.abs(part).max(initial=0.0) for part in (np.asarray(one) - other, other))
        assert off <= tolerance * largest


def assert_equals_numpy(decay, delta_rule, chunk, length):
    state, steps = drawn(length, decay, delta_rule, seed=length)
    expected = by_numpy(state, steps, delta_rule)
    with jax.enable_x64(True):
        found = by_chunks(*on_device((state, steps), np.float64), delta_rule=delta_rule, chunk=chunk)
        assert found[1].dtype == np.float64
        assert_near(found, expected, 1e-10)
    if length == 130:
        found = by_chunks(*on_device((state, steps), np.float32), delta_rule=delta_rule, chunk=chunk)
        assert_near(found, expected, 1e-5)


@every_kind
def test_the_scan_of_steps_is_the_recurrence(decay, delta_rule):
    state, steps = drawn(7, decay, delta_rule)
    with jax.enable_x64(True):
        found = by_scan(*on_device((state, steps), np.float64), delta_rule=delta_rule)
        assert_near(found, by_numpy(state, steps, delta_rule), 1e-13)


@pytest.mark.parametrize(("kind", "chunk", "length"), SOME)
def test_chunks_equal_the_recurrence(kind, chunk, length):
    assert_equals_numpy(*kind, chunk, length)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "chunk", "length"), [case for case in EVERY if case not in SOME])
def test_chunks_equal_the_recurrence_everywhere(kind, chunk, length):
    assert_equals_numpy(*kind, chunk, length)


@partial(jax.jit, static_argnames=("run", "delta_rule", "chunk"))
def slopes(run, weights, state, steps, **how):
    """The derivative of a weighted sum of all that a run gives, by the state and what drives it."""

    def loss(state, steps):
        return sum(jnp.vdot(w, found) for w, found in zip(weights, run(state, steps, **how), strict=True))

    return jax.grad(loss, argnums=(0, 1))(state, steps)


def weights_of(state, steps):
    rng = np.random.default_rng(1)
    return rng.normal(size=state.shape), rng.normal(size=steps.value.shape)


@every_kind
def test_the_derivative_is_that_of_the_scan(decay, delta_rule):
    state, steps = drawn(13, decay, delta_rule)
    with jax.enable_x64(True):
        given = on_device((weights_of(state, steps), state, steps), np.float64)
        found = slopes(by_chunks, *given, delta_rule=delta_rule, chunk=4)
        assert_near(found, jax.tree.map(np.asarray, slopes(by_scan, *given, delta_rule=delta_rule)), 1e-10)


@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("delta_rule", [False, True])
def test_decays_that_forget_at_once_are_right_and_have_gradients(decay, delta_rule):
    """e^-20 a step, over a chunk e^-160; beside decays near 1 too."""
    for share in (1.0, 0.5):
        state, steps = drawn(20, decay, delta_rule)
        strong = np.random.default_rng(2).uniform(size=steps.log_decay.shape) < share
        steps = steps._replace(log_decay=np.where(strong, -20.0, -0.01))
        given = on_device((weights_of(state, steps), state, steps), np.float32)
        found = by_chunks(*given[1:], delta_rule=delta_rule, chunk=8)
        assert_near(found, by_numpy(state, steps, delta_rule), 1e-5)
        found = slopes(by_chunks, *given, delta_rule=delta_rule, chunk=8)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        assert_near(found, jax.tree.map(np.asarray, slopes(by_scan, *given, delta_rule=delta_rule)), 1e-4)


def orthogonal_writes(times: int):
    """d_k orthonormal keys with their values, written one after the other, `times` times with new values."""
    rng = np.random.default_rng(3)
    keys = np.linalg.qr(rng.normal(size=(KEY, KEY)))[0]
    values = rng.normal(size=(1, times * KEY, 1, VALUE))
    written = np.tile(keys, (times, 1))[None, :, None]
    return keys, values, Steps(written, written, values)


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_the_delta_rule_holds_as_many_orthogonal_keys_as_a_state_has_rows(chunk):
    """Each gives back the last value that it was written with, exactly; without the rule, the sum of all."""
    keys, values, steps = orthogonal_writes(times=3)
    with jax.enable_x64(True):
        start = jnp.zeros((1, 1, KEY, VALUE))
        steps = on_device(steps, np.float64)
        kept = np.asarray(by_chunks(start, steps, delta_rule=True, chunk=chunk)[0])[0, 0]
        added = np.asarray(by_chunks(start, steps, chunk=chunk)[0])[0, 0]
    written = values[0, :, 0].reshape(3, KEY, VALUE)
    np.testing.assert_allclose(keys @ kept, written[-1], atol=1e-13)
    np.testing.assert_allclose(keys @ added, written.sum(axis=0), atol=1e-13)


def test_the_full_strength_of_two_turns_the_sign():
    """I - 2 k k^T is a reflection: two of them are nothing, one is minus one along k."""
    key = np.array([1.0, 0, 0, 0, 0])[None, None, None]
    steps = Steps(key, key, np.zeros((1, 1, 1, VALUE)), np.full((1, 1, 1), 2.0))
    state = np.random.default_rng(4).normal(size=(1, 1, KEY, VALUE)).astype(np.float32)
    turned, _ = by_chunks(jnp.asarray(state), on_device(steps, np.float32), delta_rule=True)
    np.testing.assert_allclose(turned[0, 0, 0], -state[0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(turned[0, 0, 1:], state[0, 0, 1:], rtol=1e-6)


@pytest.mark.parametrize("chunk", [0, -4, 3, 48])
def test_a_chunk_that_is_no_power_of_two_is_refused(chunk):
    state, steps = on_device(drawn(4, "none"), np.float32)
    with pytest.raises(ValueError, match=f"expected a chunk of a power of two steps, got {chunk}"):
        matrix_states(state, steps, chunk=chunk)
