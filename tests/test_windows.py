"""Sliding windows against the loop that anybody would write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data.windows import sliding_windows

shapes = st.tuples(st.integers(2, 30), st.integers(1, 8), st.integers(1, 5), st.integers(0, 3))


@given(shapes)
def test_windows_by_a_loop(shape):
    length, tau, horizon, features = shape  # features 0: a series (T,)
    series = np.random.default_rng(length).normal(size=(length, features)[: 1 + bool(features)])
    if tau + horizon > length:
        with pytest.raises(ValueError, match="give a longer series"):
            sliding_windows(series, tau, horizon)
        return
    windows = sliding_windows(series, tau, horizon)
    starts = range(length - tau - horizon + 1)
    np.testing.assert_array_equal(windows.features, [series[i : i + tau] for i in starts])
    ahead = [series[i + tau] if horizon == 1 else series[i + tau : i + tau + horizon] for i in starts]
    np.testing.assert_array_equal(windows.labels, ahead)
    assert np.shares_memory(windows.features, series) and np.shares_memory(windows.labels, series)


@pytest.mark.parametrize("shape", [(9,), (9, 2)])
@pytest.mark.parametrize("horizon", [1, 3])
def test_on_the_device_as_on_the_host(shape, horizon):
    series = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    host = sliding_windows(series, 4, horizon)
    for cut in (sliding_windows, jax.jit(sliding_windows, static_argnums=(1, 2))):
        device = cut(jnp.asarray(series), 4, horizon)
        assert isinstance(device.features, jax.Array)
        jax.tree.map(np.testing.assert_array_equal, device, host)


def test_the_textbook_case():
    windows = sliding_windows(np.arange(1000.0), 4)
    assert windows.features.shape == (996, 4) and windows.labels.shape == (996,)
    assert (windows.features[:, -1] + 1 == windows.labels).all()


@pytest.mark.parametrize("tau, horizon", [(0, 1), (-1, 1), (2, 0)])
def test_counts_below_one_are_refused(tau, horizon):
    with pytest.raises(ValueError, match="tau and horizon of at least 1"):
        sliding_windows(np.arange(9.0), tau, horizon)
