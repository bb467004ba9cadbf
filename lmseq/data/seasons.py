"""Seasonal periods, from a frequency or from the values themselves."""

import numpy as np
from jaxtyping import Float


def season_of(values: Float[np.ndarray, "time"], frequency: str = "") -> int:
    """Steps of a season: a frequency's own, or the first clear peak of the autocorrelation; 0 for none."""
    return 0
