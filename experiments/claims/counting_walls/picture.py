"""The picture of the walls of counting: arrays of the records in, panels out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.frame.intervals import Interval, interval
from lmseq.plotting import Curve, Panel

Found = dict[str, list[dict[str, Any]]]


def with_intervals(label: str, x: Sequence[float], found: Sequence[Interval], style: str) -> Curve:
    """A curve of means with their intervals."""
    mean, low, high = np.array(found).T
    return Curve(label, x, mean, low, high, style)


def panels(corpus: str, distances: Sequence[int], found: Found, summary: dict[str, Any]) -> list[Panel]:
    """Zeros, the two of storage, synonyms, range, crossing."""
    return [
        _zeros(corpus, found["zeros"]),
        *_storage(corpus, found["storage"][0], summary),
        _synonyms(found["synonyms"], summary),
        _range(distances, found["range"]),
        _crossing(corpus, found["crossing"]),
    ]


def _zeros(corpus: str, records: list[dict[str, Any]]) -> Panel:
    curves = []
    for name, label, style in (
        ("maximum_likelihood", "maximum likelihood", "o-"),
        ("smoothed", "modified Kneser-Ney", "s-"),
    ):
        shares = np.array([record[name] for record in records])
        found = [interval(column) for column in shares.T]
        curves.append(with_intervals(label, range(len(found)), found, style))
    return Panel(
        f"(a) {corpus}: impossible by the counts",
        "order: words in the longest n-grams",
        "share of held-out lines of probability 0",
        curves,
        ticks=[str(order) for order in range(1, shares.shape[1] + 1)],
    )


def _storage(corpus: str, text: dict[str, Any], summary: dict[str, Any]) -> list[Panel]:
    distinct, types = np.array(text["distinct"]), text["types"][-1]
    orders = range(1, distinct.shape[1] + 1)
    growth = [
        Curve(
            f"{order}-grams, T^{summary[f'ngram_exponent_{order}']:.2f}", text["tokens"], column, style=style
        )
        for order, column, style in zip(orders, distinct.T, ("o-", "s-", "^-", "v-", "D-"), strict=True)
    ]
    kept = [f"{order}\n{size / 1e6:.1f} MB" for order, size in zip(orders, text["bytes"], strict=True)]
    by_order = [
        Curve(
            f"possible, {types:,} words", range(len(orders)), [float(types) ** n for n in orders], style="k--"
        ),
        Curve(f"stored, {text['tokens'][-1]:,} words of text", range(len(orders)), distinct[-1], style="o-"),
    ]
    return [
        Panel(
            f"(b) {corpus}: stored n-grams grow as the text",
            "T, words of text (exponents: mean over its parts)",
            "distinct n-grams",
            growth,
            log="xy",
        ),
        Panel(
            "(b) what is stored, of all that is possible",
            "order, and megabytes of tables up to it",
            "n-grams of the order",
            by_order,
            log="y",
            ticks=kept,
        ),
    ]


def _synonyms(records: list[dict[str, Any]], summary: dict[str, Any]) -> Panel:
    names = {"order_2": "counts,\norder 2", "order_3": "counts,\norder 3", "neural": "perceptron\non 1 word"}
    lost = [interval(record["kl"]) for record in records]
    within, between = summary["cosine_within"], summary["cosine_between"]
    return Panel(
        "(c) pairs never seen, whose synonyms were\n"
        f"cosine of embeddings: {within:.2f} in a class, {between:.2f} across",
        "model",
        "nats lost against the truth, each time",
        [with_intervals("", range(len(lost)), lost, "o")],
        {"the truth": 0.0},
        ticks=[names[record["model"]] for record in records],
    )


def _range(distances: Sequence[int], records: list[dict[str, Any]]) -> Panel:
    looks = {
        "truth": ("the truth", "k_-"),
        "order_3": ("counts, order 3", "o-"),
        "order_4": ("counts, order 4", "s-"),
        "order_5": ("counts, order 5", "v-"),
        "mlp": ("perceptron on a window", "^-"),
        "gru": ("recurrent net", "D-"),
    }
    curves = []
    for record in records:
        (label, style), values = looks[record["model"]], np.array(record["agreement"]).T
        if record["model"] == "truth":
            curves.append(Curve(label, distances, values[:, 0], style=style))
        else:
            curves.append(with_intervals(label, distances, [interval(row) for row in values], style))
    return Panel(
        "(d) does a verb agree with its subject, far before it",
        "distance from subject to verb, words",
        "probability of the right number",
        curves,
        log="x",
    )


def _crossing(corpus: str, records: list[dict[str, Any]]) -> Panel:
    curves = []
    for level, label, style in (("char", "characters", "o-"), ("word", "words", "s-")):
        mine = [record for record in records if record["level"] == level]
        gaps = [interval(record["counts"] - np.array(record["gru"])) for record in mine]
        curves.append(with_intervals(label, [record["size"] for record in mine], gaps, style))
    return Panel(
        f"(e) {corpus}: above 0 the net is better",
        "training text, tokens",
        "loss of counts minus the net's, nats a token",
        curves,
        {"equally good": 0.0},
        log="x",
    )
