"""Parts of the pages of several runs, made one."""

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.web.shortening import shortened


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
    """Charts of one kind, of several runs, as one: each curve and level named by its run."""
    first = charts[0][1]
    if len(charts) == 1:
        return first
    curves = [
        curve | {"label": _of(run, curve["label"]), "band": _of(run, curve["band"]) if curve["band"] else ""}
        for run, chart in charts
        for curve in chart["curves"]
    ]
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
