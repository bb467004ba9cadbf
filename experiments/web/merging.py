"""Parts of the pages of several runs, made one."""

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.web.shortening import shortened, with_forecasts


def cut(data: dict[str, Any], num_tokens: int) -> dict[str, Any]:
    """A page with at most so many tokens of its texts."""
    readings = data.get("readings", [])
    return data | {"readings": [shortened(each, num_tokens) for each in readings]}


def merged(names: Sequence[str], pages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The page of several runs, each of which has one of its own and a name."""
    runs = [page["runs"][0] | {"name": name} for name, page in zip(names, pages, strict=True)]
    kinds = dict.fromkeys(key for page in pages for key in page["charts"])
    named = list(zip(names, pages, strict=True))
    charts = {
        key: overlaid([(name, page["charts"][key]) for name, page in named if key in page["charts"]])
        for key in kinds
    }
    own = [_own(number, name, page) for number, (name, page) in enumerate(named)]
    found = {
        "kind": pages[0]["kind"],
        "title": f"{', '.join(names)} on {pages[0]['title'].rpartition(' on ')[2]}",
        "runs": runs,
        "columns": pages[0].get("columns"),
        "table": _rows(named),
        "charts": charts,
        "readings": together([reading for readings in own for reading in readings]),
        "times": pages[0].get("times", []),
        "samples": {name: drawn for name, page in named for drawn in page.get("samples", {}).values()},
    }
    return with_forecasts(found, side_by_side(named))


def _own(number: int, name: str, page: dict[str, Any]) -> list[dict[str, Any]]:
    """The readings of a run with its own model alone, which is the first."""
    return [
        each | {"models": [each["models"][0] | {"name": name, "run": number}]}
        for each in page.get("readings", [])
    ]


def _rows(named: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of the runs themselves, behind those of models that anyone can make, each of these once."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _, page in named:
        for row in page["table"]:
            if not row.get("own") and page["runs"][0]["script"] in ("train_lm", "predict_series"):
                plain = {key: value for key, value in row.items() if key != "size"}
                found.setdefault(tuple(_short(value) for value in plain.values()), plain)
    own = [
        row | {"name": f"{name} ({row['name']})"}
        for name, page in named
        for row in page["table"]
        if row.get("own")
    ]
    return [*found.values(), *own]


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def side_by_side(named: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first run's forecasts, and beside each those of the same variable from the same origins.

    These are of all runs that show the variable; the models are named by their run.
    """
    shown = [(name, {_variable(each): each for each in page.get("forecasts", [])}) for name, page in named]
    found = []
    for variable, each in shown[0][1].items():
        alike = [(name, those[variable]) for name, those in shown if variable in those]
        origins = [
            origin for origin in each["origins"] if all(origin in other["origins"] for _, other in alike)
        ]
        models = [_from(other, origins) | {"name": name} for name, other in alike]
        if origins:
            found.append(each | {"origins": origins, "shown": len(origins), "models": models})
    return found


def _variable(forecast: dict[str, Any]) -> tuple[str, str]:
    return forecast["series"], forecast["column"]


def _from(forecast: dict[str, Any], origins: Sequence[int]) -> dict[str, Any]:
    """The model of a forecast, from some of its origins alone."""
    places = [forecast["origins"].index(origin) for origin in origins]
    model = forecast["models"][0]
    bands = [
        band | {side: [band[side][place] for place in places] for side in ("low", "high")}
        for band in model["bands"]
    ]
    return model | {"points": [model["points"][place] for place in places], "bands": bands}


def together(readings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Readings of one text, those of the same tokens as one, with all its models.

    They are as long as the shortest of them.
    """
    number = min((len(each["tokens"]) for each in readings), default=0)
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for reading in (shortened(each, number) for each in readings):
        spelt = tuple(reading["symbols"][token] for token in reading["tokens"])
        if spelt in found:
            found[spelt] = _joined(found[spelt], reading)
        else:
            found[spelt] = reading
    return list(found.values())


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two readings of the same tokens as one, with the symbols of both."""
    symbols = list(first["symbols"])
    place = {symbol: number for number, symbol in enumerate(symbols)}
    for symbol in second["symbols"]:
        if symbol not in place:
            place[symbol] = len(symbols)
            symbols.append(symbol)
    new = [place[symbol] for symbol in second["symbols"]]
    models = [
        model | {"ids": [[new[number] for number in row] for row in model["ids"]]}
        for model in second["models"]
    ]
    return first | {"symbols": symbols, "models": [*first["models"], *models]}


def overlaid(charts: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Charts of one kind, of several runs, as one: each curve and level named by its run.

    What all runs share, such as a baseline, stands there once and has no run's name.
    """
    first, curves = charts[0][1], []
    for place, (run, chart) in enumerate(charts):
        for curve in chart["curves"]:
            if len(charts) > 1 and all(curve in other["curves"] for _, other in charts):
                curves += [curve] if not place else []
                continue
            band = _of(run, curve["band"]) if curve["band"] else ""
            curves.append(curve | {"label": _of(run, curve["label"]), "band": band})
    levels = dict(_levels(charts))
    return first | {"title": "", "curves": curves, "levels": [list(level) for level in levels.items()]}


def _of(run: str, label: str) -> str:
    return f"{run}: {label}" if label else run


def _levels(charts: Sequence[tuple[str, dict[str, Any]]]) -> Iterable[tuple[str, float]]:
    """Those that all share as they are, others named by their run."""
    known = [[tuple(level) for level in chart["levels"]] for _, chart in charts]
    for (run, _), levels in zip(charts, known, strict=True):
        for label, value in levels:
            shared = all((label, value) in other for other in known)
            yield (label if shared else _of(run, label)), value
