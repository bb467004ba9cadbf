"""Series: generators against their equations, the closed-form oracle, files with every kind of fault."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.signal import lfilter

from lmseq.data import series as s
from lmseq.data import series_files as files

# Generators


@pytest.mark.parametrize("phi", [(0.6, -0.3, 0.2), (0.9,), (1.2, -0.5)])
def test_the_closed_form_error_curve_by_a_million_origins(phi):
    """e_{t+k} of the optimal forecast: the noise after t, filtered; simulated without the formula."""
    rng, horizon, origins = np.random.default_rng(0), 6, 1_000_000
    state = np.zeros((len(phi), origins))  # deviations of the truth from the forecast, newest first
    for k in range(horizon):
        newest = np.tensordot(np.array(phi), state, 1) + 0.5 * rng.normal(size=origins)
        state = np.vstack([newest[None], state[:-1]])
        # The standard error of an RMSE over independent normal errors is rmse / sqrt(2 O).
        assert np.sqrt(np.mean(newest**2)) == pytest.approx(
            s.ar_optimal_rmse(np.array(phi), 0.5, horizon)[k], rel=0.004
        )


@pytest.mark.parametrize("phi", [(0.6, -0.3, 0.2), (0.95,)])
def test_an_autoregression_obeys_its_recursion_from_its_stationary_law(phi):
    made = s.autoregression(np.random.default_rng(0), 20_000, np.array(phi), noise_scale=0.3)
    x, order = made.values[:, 0], len(phi)
    noise = x[order:] - sum(phi[j] * x[order - 1 - j : len(x) - 1 - j] for j in range(order))
    assert noise.std() == pytest.approx(0.3, rel=0.03) and abs(noise.mean()) < 0.01
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.03
    stationary = s.ar_optimal_rmse(np.array(phi), 0.3, 2000)[-1]
    firsts = [
        s.autoregression(np.random.default_rng(i), 3, np.array(phi), 0.3).values[:, 0] for i in range(3000)
    ]
    np.testing.assert_allclose(np.std(firsts, axis=0), stationary, rtol=0.06)


@given(seed=st.integers(0, 10_000), order=st.integers(1, 6))
def test_random_coefficients_are_stable(seed, order):
    phi = s.random_coefficients(np.random.default_rng(seed), order)
    assert s.check_stable(phi).shape == (order,)
    decayed = lfilter([1.0], np.concatenate([[1.0], -phi]), np.eye(1, 20_000)[0])
    assert abs(decayed[-1]) < 1e-3


@pytest.mark.parametrize("phi", [(1.0,), (-1.01,), (0.5, 0.5), (2.0, -1.0), (np.nan,), ()])
def test_unstable_coefficients_are_refused(phi):
    with pytest.raises(ValueError, match="expected"):
        s.check_stable(np.array(phi))


def test_the_logistic_map_and_the_noise_of_the_sines():
    x = s.logistic_map(np.random.default_rng(0), 500).values[:, 0]
    np.testing.assert_array_equal(x[1:], 4 * x[:-1] * (1 - x[:-1]))
    t = np.arange(1, 50_001)
    sine = s.noisy_sine(np.random.default_rng(0), 50_000).values[:, 0] - np.sin(0.01 * t)
    season = s.trend_and_season(np.random.default_rng(0), 50_000).values[:, 0]
    season -= 0.002 * t + np.sin(2 * np.pi * t / 24) + 0.5 * np.sin(2 * np.pi * t / 168)
    for noise, scale in ((sine, 0.2), (season, 0.1)):
        assert noise.std() == pytest.approx(scale, rel=0.02) and abs(noise.mean()) < 0.01 * scale * 3


def test_lorenz_as_a_solver_of_scipy_has_it():
    x = s.lorenz(np.random.default_rng(0), 60).values

    def slope(_, v):
        return [10 * (v[1] - v[0]), v[0] * (28 - v[2]) - v[1], v[0] * v[1] - 8 / 3 * v[2]]

    times = s.LORENZ_STEP * np.arange(60)
    solved = solve_ivp(slope, (0, times[-1]), x[0], t_eval=times, rtol=1e-10, atol=1e-10).y.T
    np.testing.assert_allclose(x, solved, atol=2e-4)
    assert 10 < np.ptp(s.lorenz(np.random.default_rng(1), 2000).values[:, 0]) < 45  # on the attractor


def test_mackey_glass_solves_its_equation():
    """Integrated once more over one delay, from the series itself and its interpolated past."""
    x = s.mackey_glass(np.random.default_rng(0), 300).values[:, 0]
    times = np.arange(300.0)
    spline = CubicSpline(times, x)

    def slope(t, v):
        delayed = spline(t - 17)
        return 0.2 * delayed / (1 + delayed**10) - 0.1 * v

    solved = solve_ivp(slope, (100, 116), [x[100]], t_eval=times[100:117], rtol=1e-8, atol=1e-10).y[0]
    np.testing.assert_allclose(x[100:117], solved, atol=2e-3)
    assert 0.2 < x.min() < 0.7 < 1.1 < x.max() < 1.5


# Splits and units


@given(st.integers(3, 500), st.floats(0, 0.9), st.floats(0.05, 0.9))
def test_parts_in_order_of_time(num_points, valid, test):
    if valid + test >= 1:
        with pytest.raises(ValueError, match="sum below 1"):
            s.split_series(num_points, valid, test)
        return
    split = s.split_series(num_points, valid, test)
    assert 0 <= split.train_end <= split.test_start <= num_points
    assert abs(num_points - split.test_start - test * num_points) <= 0.5
    assert abs(split.test_start - split.train_end - valid * num_points) <= 0.5


def test_units_are_undone_whatever_the_level():
    rng = np.random.default_rng(0)
    x = np.stack([1e9 + rng.normal(size=500), 1e-6 * rng.normal(size=500)], axis=1)
    scaler = s.fit_scaler(x[:300], ("a", "b"))
    z = scaler.apply(x)
    assert z.dtype == np.float32 and np.abs(z[:300].mean(axis=0)).max() < 1e-3
    np.testing.assert_allclose(z[:300].std(axis=0), 1, rtol=1e-4)
    assert (np.abs(scaler.undo(z) - x) < 1e-6 * scaler.scale).all()


def test_a_constant_column_is_named():
    x = np.stack([np.arange(9.0), np.full(9, 0.1)], axis=1)
    with pytest.raises(ValueError, match="'b' is constant"):
        s.fit_scaler(x, ("a", "b"))


# Missing values

holed = st.lists(st.sampled_from([np.nan, 1.0, 2.0, 5.0]), min_size=1, max_size=12)


@given(holed)
def test_previous_by_a_loop(column):
    values = np.array(column)[:, None]
    if np.isnan(column[0]):
        with pytest.raises(ValueError, match="'a' has no value in row 1"):
            files.fill_missing(values, "previous", ("a",))
        return
    expected = list(column)
    for i in range(1, len(column)):
        expected[i] = expected[i - 1] if np.isnan(expected[i]) else expected[i]
    np.testing.assert_array_equal(files.fill_missing(values, "previous", ("a",))[:, 0], expected)


@given(holed)
def test_interpolate_by_a_loop(column):
    values = np.array(column)[:, None]
    if np.isnan(column[0]) or np.isnan(column[-1]):
        with pytest.raises(ValueError, match="has no value in row"):
            files.fill_missing(values, "interpolate", ("a",))
        return
    filled = files.fill_missing(values, "interpolate", ("a",))[:, 0]
    for i in range(len(column)):
        left = max(j for j in range(i + 1) if not np.isnan(column[j]))
        right = min(j for j in range(i, len(column)) if not np.isnan(column[j]))
        share = (i - left) / (right - left) if right > left else 0.0
        assert filled[i] == pytest.approx(column[left] + share * (column[right] - column[left]))


# Files


def file_of(tmp_path, text: str, encoding: str = "utf-8"):
    path = tmp_path / "load.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_was_written_is_read(tmp_path, delimiter, encoding):
    values = np.random.default_rng(0).normal(size=(20, 3))
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["a", "b b", "ç"], *values.tolist()])
    path = file_of(tmp_path, out.getvalue(), encoding)
    np.testing.assert_array_equal(files.read_csv(path).values, values)
    chosen = files.read_csv(path, ("ç", "a"))
    assert chosen.columns == ("ç", "a") and chosen.name == "load"
    np.testing.assert_array_equal(chosen.values, values[:, [2, 0]])


TIMES = {
    "months, a year long": ([f"2024-{month:02}-01" for month in range(1, 13)], None),
    "a month left out": (["2024-01-01", "2024-02-01", "2024-03-01", "2024-05-01"], "row 5, column 't': 1.9"),
    "not in order": (["3", "4", "2", "5"], "row 4, column 't': the time is not later"),
    "twice the same": (["1", "2", "2", "3"], "row 4, column 't': the time is not later"),
    "zones": (["2024-10-27T02:30+02:00", "2024-10-27T02:30+01:00", "2024-10-27T03:30+01:00"], None),
    "no date": (["1", "soon", "3"], "row 3, column 't': expected a number or an ISO date"),
    "infinite": (["1", "inf", "3"], "row 3, column 't': expected a finite time"),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_checked(tmp_path, name):
    times, complaint = TIMES[name]
    path = file_of(tmp_path, "\n".join(["t,x", *(f"{time},{i * i}" for i, time in enumerate(times))]))
    if complaint is None:
        assert files.read_csv(path, time_column="t").columns == ("x",)
    else:
        with pytest.raises(ValueError, match=complaint):
            files.read_csv(path, time_column="t")


FAULTS = {
    "empty": ("", "is empty"),
    "header only": ("a,b\n", "a row for each time, got 1"),
    "a hole in a single column": ("a\n1\n\n3\n\n", "1 missing value.*row 3, column 'a'"),
    "only commas": (",,\n,,\n", "got 0"),
    "a word": ("a\n1\n\nmany\n", "row 4, column 'a': expected a number, got 'many'"),
    "infinite": ("a\n1\n-inf\n", "row 3, column 'a': expected a finite number"),
    "a hole": ("a,b\n1,1\n\n2,\n3,3\n", "1 missing value.*row 4, column 'b'"),
    "ragged": ("a,b\n1,2\n3\n", "row 3: the header has 2 cells, this row 1"),
    "a name twice": ("a,a\n1,2\n", "names a column twice"),
    "an open quote": ('a\n"1\n2\n', "row"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_where_they_are(tmp_path, name):
    text, complaint = FAULTS[name]
    with pytest.raises(ValueError, match=complaint):
        files.read_csv(file_of(tmp_path, text))


def test_columns_and_encodings_that_are_not_there(tmp_path):
    path = file_of(tmp_path, "a,b\n1,2\n3,4\n")
    with pytest.raises(ValueError, match="no column 'c': it has a, b"):
        files.read_csv(path, ("c",))
    with pytest.raises(ValueError, match="no column beside the time"):
        files.read_csv(file_of(tmp_path, "t\n1\n2\n"), time_column="t")
    with pytest.raises(ValueError, match="not UTF-8: byte 2"):
        files.read_csv(file_of(tmp_path, "a\n\xe9\n", "latin-1"))


def test_bundled_series():
    pytest.importorskip("statsmodels")
    assert [len(files.bundled(name).values) for name in ("sunspots", "nile", "elnino")] == [309, 100, 732]
    with pytest.raises(ValueError, match="missing value"):
        files.bundled("co2")
    filled = files.bundled("co2", "interpolate").values
    assert np.isfinite(filled).all() and 310 < filled.min() < filled.max() < 380
