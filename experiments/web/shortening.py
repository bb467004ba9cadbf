"""A page that would be too large, made shorter."""

import math
from typing import Any

LEAST_TOKENS = 64
LEAST_ORIGINS = 2


def shorter(data: dict[str, Any], share: float) -> dict[str, Any] | None:
    """The same data with a share of the tokens of its texts, and of the origins of its forecasts.

    None where there is nothing left to leave out.
    """
    readings = [
        shortened(each, max(LEAST_TOKENS, int(share * len(each["tokens"]))))
        for each in data.get("readings", [])
    ]
    forecasts = [_thinned(each, math.ceil(1 / share)) for each in data.get("forecasts", [])]
    found = data | {"readings": readings, "forecasts": forecasts}
    sizes = [
        [len(reading["tokens"]) for reading in each.get("readings", [])]
        + [len(forecast["origins"]) for forecast in each.get("forecasts", [])]
        for each in (found, data)
    ]
    return None if sizes[0] == sizes[1] else found


def shortened(reading: dict[str, Any], number: int) -> dict[str, Any]:
    """The first tokens of a reading."""
    models = [
        model | {name: model[name][:number] for name in ("nats", "ids", "id_nats")}
        for model in reading["models"]
    ]
    cut = {name: reading[name][:number] for name in ("tokens", "kind_of")}
    return reading | cut | {"models": models}


def _thinned(forecast: dict[str, Any], step: int) -> dict[str, Any]:
    """Every so many of the origins of a forecast, as far as two are left."""
    step = min(step, max(1, (len(forecast["origins"]) - 1) // (LEAST_ORIGINS - 1)))
    chosen = slice(None, None, step)

    def of(model: dict[str, Any]) -> dict[str, Any]:
        bands = [band | {side: band[side][chosen] for side in ("low", "high")} for band in model["bands"]]
        return model | {"points": model["points"][chosen], "bands": bands}

    models = [of(model) for model in forecast["models"]]
    return forecast | {"origins": forecast["origins"][chosen], "models": models}
