"""What a time series is: values at equally spaced times, and what is known of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

Values = Float[np.ndarray, "time feature"]


class Series(NamedTuple):
    """D variables at T equally spaced times, float64 on the host: a float32 cannot hold the last digits
    of a large level, and `Scaler.apply` makes float32 of what is left once the level is gone.

    period: steps of a season, for the seasonal baseline; 0 where there is none.
    oracle_rmse: the least RMSE of a prediction k = 1 ... K steps ahead, from K, in the series' units.
    lyapunov: mean growth of ln |error| per step of a chaotic system, nats.
    filled: which values were missing and stand there by a policy; they are never scored. (T, D), or None.
    times: of each row, (T,) datetime64 in UTC or plain numbers, for pictures; None: steps are counted.
    rows: the line of its file at which each row begins, for messages; empty where there is no file.
    notes: what was decided in reading it, a line each, for people to see.
    known: covariates that are known ahead, of the T rows and of F more that follow, (T + F, C) float64.
    past: those that are known only so far, (T, C). static: what never changes, (C,); a text is a column of 0
    and 1 for each of its values in the panel. None where there are none; each with the names of its columns.
    """

    name: str
    columns: tuple[str, ...]
    values: Values
    period: int = 0
    oracle_rmse: Callable[[int], Float[np.ndarray, "horizon"]] | None = None
    lyapunov: float | None = None
    filled: Bool[np.ndarray, "time feature"] | None = None
    times: Shaped[np.ndarray, "time"] | None = None
    notes: tuple[str, ...] = ()
    rows: Sequence[int] = ()
    known: Values | None = None
    known_names: tuple[str, ...] = ()
    past: Values | None = None
    past_names: tuple[str, ...] = ()
    static: Float[np.ndarray, "feature"] | None = None
    static_names: tuple[str, ...] = ()

    def observed(self) -> Values:
        """The values, NaN where they were missing."""
        return self.values if self.filled is None else np.where(self.filled, np.nan, self.values)

    def until(self, end: int) -> "Series":
        """The first so many points."""
        filled, times = self.filled, self.times
        return self._replace(
            values=self.values[:end],
            filled=None if filled is None else filled[:end],
            times=None if times is None else times[:end],
            rows=self.rows[:end],
            past=None if self.past is None else self.past[:end],
        )

    def followed_by(self, later: "Series") -> "Series":
        """The points of both, one behind the other; times and covariates are kept where both have them."""

        def joined(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
            return None if first is None or second is None else np.concatenate([first, second])

        filled = [
            np.zeros(each.values.shape, bool) if each.filled is None else each.filled
            for each in (self, later)
        ]
        return self._replace(
            values=np.concatenate([self.values, later.values]),
            filled=joined(*filled) if any(map(np.any, filled)) else None,
            times=joined(self.times, later.times),
            rows=(),
            known=None if self.known is None else joined(self.known[: len(self.values)], later.known),
            past=joined(self.past, later.past),
        )
