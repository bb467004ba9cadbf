"""A page that would be too large, made shorter."""

from typing import Any

LEAST_TOKENS = 64
LEAST_ORIGINS = 2


def halved(data: dict[str, Any]) -> dict[str, Any] | None:
    """The same data with half of the tokens of its texts and of the origins of its forecasts.

    None where there is nothing left to halve.
    """
    readings = [_first_tokens(each, len(each["tokens"]) // 2) for each in data.get("readings", [])]
    forecasts = [_every_other(each) for each in data.get("forecasts", [])]
    shorter = data | {"readings": readings, "forecasts": forecasts}
    is_shorter = readings != data.get("readings", []) or forecasts != data.get("forecasts", [])
    return shorter if is_shorter else None


def _first_tokens(reading: dict[str, Any], number: int) -> dict[str, Any]:
    return shortened(reading, number) if number >= LEAST_TOKENS else reading


def _every_other(forecast: dict[str, Any]) -> dict[str, Any]:
    if len(forecast["origins"]) <= LEAST_ORIGINS:
        return forecast

    def thinned(model: dict[str, Any]) -> dict[str, Any]:
        bands = [band | {side: band[side][::2] for side in ("low", "high")} for band in model["bands"]]
        return model | {"points": model["points"][::2], "bands": bands}

    models = [thinned(model) for model in forecast["models"]]
    return forecast | {"origins": forecast["origins"][::2], "models": models}


def shortened(reading: dict[str, Any], number: int) -> dict[str, Any]:
    """The first tokens of a reading."""
    models = [
        model | {name: model[name][:number] for name in ("nats", "ids", "id_nats")}
        for model in reading["models"]
    ]
    cut = {name: reading[name][:number] for name in ("tokens", "kind_of")}
    return reading | cut | {"models": models}
