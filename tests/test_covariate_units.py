"""Where covariates stand behind the values, and the units that they are in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmseq.data import covariates as beside
from lmseq.data.covariates import Beside, Units
from lmseq.data.series_types import Series
from lmseq.types import Covariates


@given(
    seed=st.integers(0, 99), num_points=st.integers(3, 12), later=st.integers(0, 4), horizon=st.integers(1, 5)
)
def test_what_stands_behind_each_element(seed, num_points, later, horizon):
    """Known ones are of the next time, past ones of the value's own; beyond an origin these are repeated."""
    rng = np.random.default_rng(seed)
    known, past, static = (
        rng.normal(size=shape).astype(np.float32) for shape in ((num_points + later, 2), (num_points, 1), 3)
    )
    found = Beside(known, past, static)
    assert found.sizes == (2, 1, 3)
    last = len(known) - 1
    for t, row in enumerate(found.rows()):
        np.testing.assert_array_equal(row, [*known[min(t + 1, last)], *past[t], *static])
    origins = np.arange(1, num_points + 1)
    for origin, rows in zip(origins, found.ahead(origins, horizon), strict=True):
        np.testing.assert_array_equal(rows[0], found.rows()[origin - 1])
        for step, row in enumerate(rows):
            np.testing.assert_array_equal(row, [*known[min(origin + step, last)], *past[origin - 1], *static])


def series_of(name: str, known, past=None, static=None, num_points: int = 4) -> Series:
    """With one column of each kind that is given."""
    known = np.array(known, float)[:, None]
    more = {} if past is None else {"past": np.array(past, float)[:, None], "past_names": ("guests",)}
    if static is not None:
        more |= {"static": np.array(static, float), "static_names": ("city=Bern", "city=Chur", "size")}
    return Series(name, ("x",), np.zeros((num_points, 1)), known=known, known_names=("price",), **more)


def test_units_are_of_the_training_parts_of_all_series():
    one = series_of("A", [1, 2, 3, 90, 90], [4, 4, 4, 4], [1, 0, 3])
    two = series_of("B", [5, 6, 90, 90], [4, 4, 4, 7], [0, 1, 5])
    units = beside.fit_units([one, two], [3, 2])
    known = np.array([1, 2, 3, 5, 6])
    np.testing.assert_allclose(units.mean, [known.mean(), 4, 0, 0, 4])
    np.testing.assert_allclose(units.scale, [known.std(), 1, 1, 1, 1])
    found = beside.in_units(two, units)
    np.testing.assert_allclose(found.known[:, 0], (two.known[:, 0] - known.mean()) / known.std(), rtol=1e-6)
    assert found.past[:, 0].tolist() == [0, 0, 0, 3] and found.static.tolist() == [0, 1, 1]
    again = beside.read_units(units.facts())
    assert again.names == units.names and (again.mean == units.mean).all()
    assert (again.scale == units.scale).all()


def test_covariates_of_another_series_must_be_those_of_the_units():
    units = beside.fit_units([series_of("A", [1, 2, 3, 4], static=[1, 0, 3])], [4])
    only = series_of("B", [1, 2, 3, 4], static=[1, 0, 3])
    fewer = only._replace(static=only.static[[0, 2]], static_names=("city=Bern", "size"))
    assert beside.in_units(fewer, units).static.tolist() == [1, 0, 0], "a text that is not there is 0"
    for other, says in (
        (
            only._replace(static_names=("city=Bern", "city=Genf", "size")),
            "expected city=Bern, city=Chur, size",
        ),
        (only._replace(known=None, known_names=()), "'B' has the known covariates none: expected price"),
        (only._replace(known=1e40 * only.known), "too large"),
    ):
        with pytest.raises(ValueError, match=says):
            beside.in_units(other, units)
    with pytest.raises(ValueError, match="'price' is too large"):
        beside.fit_units([only._replace(known=1e40 * only.known)], [4])
    with pytest.raises(ValueError, match="damaged"):
        beside.read_units({"known": ["price"], "mean": [0.0]})


def test_units_of_nothing():
    plain = Series("A", ("x",), np.zeros((4, 1)))
    units = beside.fit_units([plain], [4])
    assert isinstance(units, Units) and units.mean.size == 0
    assert beside.in_units(plain, units).sizes == Covariates()
