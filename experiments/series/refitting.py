"""Rolling origins: the parameters that each origin of the test parts is forecast by."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lmseq import panels
from lmseq.config.series import SeriesConfig, num_direct
from lmseq.contract import Model
from lmseq.data.prepared import PreparedPanel, SeriesSplit
from lmseq.models.build import fit_at_once
from lmseq.models.linear import chosen_ridge
from lmseq.panels import Origins
from lmseq.types import Params


class Stretch(NamedTuple):
    """Origins of each series that are forecast by the same parameters."""

    params: Params
    origins: Sequence[Origins]

    def until(self, last: Sequence[int]) -> "Stretch":
        """Without the origins beyond the last of each series."""
        kept = [
            each._replace(count=len([place for place in each.places() if place <= end]))
            for each, end in zip(self.origins, last, strict=True)
        ]
        return self._replace(origins=kept)


def stretches(
    config: SeriesConfig, panel: PreparedPanel, model: Model, params: Params, origins: Sequence[Origins]
) -> list[Stretch]:
    """One stretch of all origins; with `refit_every` K, the first K of each series, the next K, and so on.

    Then the parameters of a stretch are those of a fit to all values before its first origins. A ridge that
    the validation part chooses is chosen once.
    """
    every = config.forecast.refit_every
    if not every:
        return [Stretch(params, origins)]
    chosen = config.model
    if chosen.ridge == -1:
        sizes = (chosen.tau, num_direct(config), chosen.normalisation)
        chosen = dataclasses.replace(chosen, ridge=chosen_ridge(panel.members, *sizes), refit=False)
    fixed, found = dataclasses.replace(config, model=chosen), []
    for first in range(0, max(each.count for each in origins), every):
        part = [
            Origins(each.first + first * each.step, int(np.clip(each.count - first, 0, every)), each.step)
            for each in origins
        ]
        ends = [each.first if each.count else whole.last for each, whole in zip(part, origins, strict=True)]
        found.append(Stretch(fit_until(fixed, panel, model, ends), part))
    return found


def fit_until(config: SeriesConfig, panel: PreparedPanel, model: Model, ends: Sequence[int]) -> Params:
    """Parameters of a fit to the first values of each series, so many of each."""
    members = [
        each._replace(split=SeriesSplit(end, end)) for each, end in zip(panel.members, ends, strict=True)
    ]
    return fit_at_once(config, panel._replace(members=tuple(members)), model)


def points_of(panel: PreparedPanel, model: Model, parts: Sequence[Stretch], horizon: int) -> list[np.ndarray]:
    """Forecasts 1 ... K steps ahead from the origins of each series, (O_n, K, D), in the model's units."""

    def of_part(part: Stretch) -> list[np.ndarray]:
        read = panels.read_from(panel, part.origins, horizon)
        return panels.panel_points(model, part.params, *read, max_horizon=horizon)

    return joined(parts, of_part)


def joined(parts: Sequence[Stretch], work: Callable[[Stretch], list[np.ndarray]]) -> list[np.ndarray]:
    """What is made of each stretch, (O_n, ...) of each series, one behind the other."""
    found = [work(part) for part in parts if any(each.count for each in part.origins)]
    return [np.concatenate(each) for each in zip(*found, strict=True)]
