"""Series as a model is made for them: split by time, in the model's units, with their covariates."""

import hashlib
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from lmseq.data.covariates import Beside, Units, fit_units, in_units
from lmseq.data.panel import Panel
from lmseq.data.partition import Within
from lmseq.data.scaling import Scaler
from lmseq.data.series_types import Series, Values
from lmseq.types import NO_COVARIATES, Covariates


class SeriesSplit(NamedTuple):
    """Where the training part ends and the test part begins; between them lies the validation part."""

    train_end: int
    test_start: int


class Prepared(NamedTuple):
    """A series, its parts, and its values (T, D) standardised by the training part, float32.

    beside: its covariates in the model's units; None where it has none.
    """

    series: Series
    split: SeriesSplit
    scaler: Scaler
    values: Values
    beside: Beside | None = None

    @property
    def covariates(self) -> Covariates:
        """How many columns stand behind the values."""
        return NO_COVARIATES if self.beside is None else self.beside.sizes

    @property
    def inputs(self) -> Values:
        """What a model reads, (T, D + C): the standardised values, and the covariates behind them."""
        return self.values if self.beside is None else np.concatenate([self.values, self.beside.rows()], 1)

    def ahead(self, origins: np.ndarray, horizon: int) -> np.ndarray | None:
        """Covariates from each origin on, (O, K, C), as `rollout` takes them; None where there are none."""
        return None if self.beside is None else self.beside.ahead(origins, horizon)

    def ahead_of_all(self, first_origin: int, horizon: int) -> np.ndarray | None:
        """The same from every origin with K values after it, as `k_step_points` takes them."""
        return self.ahead(np.arange(first_origin, len(self.values) - horizon + 1), horizon)

    @property
    def train(self) -> Values:
        """The inputs of the training part."""
        return self.inputs[: self.split.train_end]

    @property
    def test_points(self) -> int:
        """How many values are forecast."""
        return len(self.values) - self.split.test_start

    def facts(self) -> dict[str, Any]:
        """What a model is trained on: name, columns, parts, and SHA-256 of the values and covariates."""
        sha = hashlib.sha256(np.ascontiguousarray(self.series.values).tobytes())
        _add_covariates(sha, self)
        return {
            "series": self.series.name,
            "columns": list(self.series.columns),
            "points": len(self.values),
            "train_points": self.split.train_end,
            "test_points": self.test_points,
            "sha256": sha.hexdigest(),
        }


def _add_covariates(sha: Any, member: Prepared) -> None:
    """Those of the series' own times: what is known of later ones may change."""
    if member.beside is not None:
        known, past, static = member.beside
        for each in (known[: len(past)], past, static):
            sha.update(np.ascontiguousarray(each).tobytes())


class PreparedPanel(NamedTuple):
    """The series that one model is made for; one alone is a panel too.

    units: of their covariates; None where they have none.
    """

    panel: Panel
    members: tuple[Prepared, ...]
    units: Units | None = None

    @property
    def only(self) -> Prepared:
        """The one series of a panel of one; ValueError for a panel of more."""
        if len(self.members) != 1:
            raise ValueError(
                f"expected one series, {self.panel.name} has {len(self.members)}: choose a column of it"
            )
        return self.members[0]

    @property
    def num_features(self) -> int:
        """Values a step, D."""
        return self.members[0].values.shape[1]

    @property
    def covariates(self) -> Covariates:
        """How many columns stand behind the values."""
        return self.members[0].covariates

    @property
    def period(self) -> int:
        """Steps of the season that most series have; 0 where that is none."""
        return Counter(each.series.period for each in self.members).most_common(1)[0][0]

    @property
    def train(self) -> Values:
        """The inputs of the training parts, one behind the other."""
        return np.concatenate([each.train for each in self.members])

    @property
    def partition(self) -> Within:
        """The windows of the training parts, none of which lies in two of them."""
        return Within(tuple(each.split.train_end for each in self.members))

    def facts(self) -> dict[str, Any]:
        """What a model is trained on; of several series their number and the SHA-256 of all their values."""
        beside = {} if self.units is None else {"covariates": self.units.facts()}
        if len(self.members) == 1:
            return self.members[0].facts() | beside
        sha = hashlib.sha256()
        for each in self.members:
            sha.update(f"{each.series.name} {each.split}\n".encode())
            sha.update(np.ascontiguousarray(each.series.values).tobytes())
            _add_covariates(sha, each)
        return beside | {
            "series": self.panel.name,
            "num_series": len(self.members),
            "points": sum(len(each.values) for each in self.members),
            "train_points": sum(each.split.train_end for each in self.members),
            "test_points": sum(each.test_points for each in self.members),
            "sha256": sha.hexdigest(),
        }


def with_units(panel: PreparedPanel, units: Units | None = None) -> PreparedPanel:
    """The panel with its covariates, if it has any, in units: by default those of its training parts."""
    every = [each.series for each in panel.members]
    if units is None:
        if not (every[0].known_names or every[0].past_names or every[0].static_names):
            return panel
        units = fit_units(every, [each.split.train_end for each in panel.members])
    members = [each._replace(beside=in_units(each.series, units)) for each in panel.members]
    return panel._replace(members=tuple(members), units=units)
