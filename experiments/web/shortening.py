"""A page that would be too large, made shorter."""

import math
from typing import Any

LEAST_TOKENS = 64
LEAST_ORIGINS = 2


def shorter(data: dict[str, Any], share: float) -> dict[str, Any] | None:
    """The same data with a share of the tokens of its texts, and of the origins of its forecasts.

    Where there are no more tokens and origins to leave out, with a share of the forecasts, spread evenly over
    all; None where one is left.
    """
    readings = [
        shortened(each, max(LEAST_TOKENS, int(share * len(each["tokens"]))))
        for each in data.get("readings", [])
    ]
    forecasts = [_thinned(each, math.ceil(1 / share)) for each in data.get("forecasts", [])]
    found = with_forecasts(data | {"readings": readings}, forecasts)
    if _sizes(found) != _sizes(data):
        return found
    number = max(1, int(share * len(forecasts)))
    places = [place * (len(forecasts) - 1) // max(1, number - 1) for place in range(number)]
    fewer = [forecasts[place] for place in places] if len(forecasts) > number else []
    return with_forecasts(found, fewer) if fewer else None


def _sizes(data: dict[str, Any]) -> list[int]:
    """Of each text its tokens, of each forecast its origins."""
    texts = [len(each["tokens"]) for each in data.get("readings", [])]
    return texts + [len(each["origins"]) for each in data.get("forecasts", [])]


def with_forecasts(data: dict[str, Any], forecasts: list[dict[str, Any]]) -> dict[str, Any]:
    """A page with some of its forecasts, and the times of these alone."""
    used = sorted({each["times"] for each in forecasts if each["times"] is not None})
    number = {None: None} | {times: place for place, times in enumerate(used)}
    kept = [each | {"times": number[each["times"]]} for each in forecasts]
    return data | {"forecasts": kept, "times": [data["times"][place] for place in used]}


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

    models, origins = [of(model) for model in forecast["models"]], forecast["origins"][chosen]
    return forecast | {"origins": origins, "shown": len(origins), "models": models}
