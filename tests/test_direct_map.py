"""The linear map in closed form: sums over pieces against all windows at once."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmseq.config.series import SeriesModelConfig
from lmseq.data.panel import Panel
from lmseq.data.scaling import Scaler
from lmseq.data.series import Prepared, PreparedPanel, SeriesSplit
from lmseq.data.series_types import Series
from lmseq.models import direct_map as maps
from lmseq.models.build import build_series_model
from lmseq.models.linear import fit_least_squares, fit_map
from lmseq.models.normalised import statistics

few = settings(max_examples=25)


def walks(seed: int, lengths: list[int], num_features: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, num_features)).cumsum(axis=0) for length in lengths]


def all_windows(series, tau, horizon, kind):
    """Inputs and targets one window at a time."""
    inputs, targets = [], []
    for values in series:
        for first in range(len(values) - tau - horizon + 1):
            seen, ahead = values[first : first + tau], values[first + tau : first + tau + horizon]
            found = statistics(seen, kind)
            inputs.append(found.apply(seen).ravel())
            targets.append(found.apply(ahead).ravel())
    return np.array(inputs), np.array(targets)


@few
@given(
    seed=st.integers(0, 99),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    tau=st.integers(1, 4),
    horizon=st.integers(1, 3),
    num_features=st.integers(1, 2),
    kind=st.sampled_from(["none", "last", "mean", "instance"]),
    penalty=st.sampled_from([0.0, 0.1, 10.0]),
    piece=st.sampled_from([1, 50, maps.PIECE]),
)
def test_sums_over_pieces_solve_what_all_windows_do(
    seed, lengths, tau, horizon, num_features, kind, penalty, piece
):
    series = walks(seed, lengths, num_features)
    inputs, targets = all_windows(series, tau, horizon, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "PIECE", piece)
        if not len(inputs):
            with pytest.raises(ValueError, match="at least one window"):
                maps.moments(maps.pieces(series, tau, horizon, kind))
            return
        sums = maps.moments(maps.pieces(series, tau, horizon, kind))
    found = maps.solve(maps.decompose(sums), penalty)
    # About the means, the penalty is rows of its size below the windows: the constant bears none.
    centred = inputs - inputs.mean(axis=0)
    size = penalty * np.trace(centred.T @ centred) / centred.shape[1]
    rows = np.concatenate([centred, np.sqrt(size) * np.eye(centred.shape[1])])
    wanted = np.concatenate([targets - targets.mean(axis=0), np.zeros((centred.shape[1], targets.shape[1]))])
    expected = np.linalg.lstsq(rows, wanted, rcond=1e-7)[0]
    scale = max(1.0, np.abs(targets).max())
    np.testing.assert_allclose(
        inputs @ found.weights + found.bias,
        targets.mean(axis=0) + centred @ expected,
        rtol=0,
        atol=1e-6 * scale,
    )
    errors = ((inputs @ found.weights + found.bias - targets) ** 2).mean(axis=0)
    np.testing.assert_allclose(maps.mean_square_error(sums, found), errors, rtol=1e-6, atol=1e-8 * scale**2)


def test_the_penalty_is_the_best_on_other_windows():
    series, others = walks(1, [60, 50]), walks(2, [30, 25])
    of = maps.decompose(maps.moments(maps.pieces(series, 6, 3, "last")))
    inputs, targets = all_windows(others, 6, 3, "last")

    def error(penalty: float) -> float:
        found = maps.solve(of, penalty)
        return float(((inputs @ found.weights + found.bias - targets) ** 2).sum())

    chosen = maps.choose_penalty(of, maps.pieces(others, 6, 3, "last"))
    assert error(chosen) == pytest.approx(min(map(error, maps.PENALTIES)))
    with pytest.raises(ValueError, match="validation part with a window"):
        maps.choose_penalty(of, maps.pieces(others, 40, 30, "last"))


def prepared(values: np.ndarray, train_end: int, test_start: int) -> Prepared:
    scaler = Scaler(np.zeros(1), np.ones(1))
    series = Series("walk", ("x",), values)
    return Prepared(series, SeriesSplit(train_end, test_start), scaler, scaler.apply(values))


def test_one_series_without_a_ridge_is_least_squares():
    member = prepared(walks(3, [200])[0], 150, 170)
    found = fit_map([member], 4, 2, "none")["value_head"]
    expected = fit_least_squares(member.train, 4, "point", 2)["value_head"]
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, rtol=1e-4, atol=1e-5)


def test_the_normal_head_has_the_deviation_of_the_residuals():
    members = [prepared(walks(seed, [90])[0], 60, 75) for seed in (4, 5)]
    params = fit_map(members, 3, 2, "last", 0.1, head="normal")
    model = build_series_model(
        SeriesModelConfig(model="linear", tau=3, normalisation="last", head="normal"), 1, num_direct=2
    )
    inputs, targets = all_windows([each.train.astype(float) for each in members], 3, 2, "last")
    kernel, bias = (np.asarray(params["value_head"][name], float) for name in ("mean_kernel", "mean_bias"))
    deviation = np.sqrt(((inputs @ kernel + bias - targets) ** 2).mean(axis=0))
    found = model.readout_direct(params, jnp.asarray(members[0].train[None, :3]))
    np.testing.assert_allclose(found.scale[0, :, 0], deviation, rtol=1e-4)


def test_refit_takes_the_validation_part_too():
    member = prepared(walks(6, [120])[0], 60, 100)
    refitted = fit_map([member], 4, 2, "last", -1.0, refit=True)
    longer = prepared(walks(6, [120])[0], 100, 100)
    chosen = maps.choose_penalty(
        maps.decompose(maps.moments(maps.pieces([member.train], 4, 2, "last"))),
        maps.pieces([member.values[56:100]], 4, 2, "last"),
    )
    expected = fit_map([longer], 4, 2, "last", chosen)
    np.testing.assert_array_equal(
        refitted["value_head"]["mean_kernel"], expected["value_head"]["mean_kernel"]
    )


def test_the_order_of_series_does_not_matter():
    members = [prepared(walks(seed, [80])[0], 50, 60) for seed in range(4)]
    panels = [PreparedPanel(Panel("p", ()), tuple(order)) for order in (members, members[::-1])]
    one, other = (fit_map(panel.members, 5, 3, "mean", -1.0)["value_head"]["mean_kernel"] for panel in panels)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
