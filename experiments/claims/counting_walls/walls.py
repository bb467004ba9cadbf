"""The walls of counting: zero probability, storage, no semantics, short range; and where nets overtake.

    python -m experiments.claims.counting_walls --workdir=runs/walls

On a text of words: the share of held-out lines to which maximum likelihood gives probability zero, by order,
and the n-grams that have to be stored as the text grows. On a grammar whose probabilities are known: what is
lost on a noun and a verb that were never seen together while their synonyms were, and how far the number of a
subject is carried to its verb. On the text again: the loss of the best counts and of a recurrent net by the
amount of training text, and where, if anywhere, the net becomes the better one.
"""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.claims.counting_walls.settings import CountingWallsRun, check
from experiments.frame.console import numbers

ORDERS = (1, 2, 3, 4, 5)
COUNT_MODELS = ("order_3", "order_4", "order_5")  # whose agreement is measured
MANY = 0.25  # share of the lines that is many
BLIND = 0.05  # the farthest from 1/2 that agreement of what does not see the subject may be
KNOWN = 0.9  # agreement of what carries its number


def measure(whole: CountingWallsRun, workdir: Path) -> dict[str, Any]:
    """All walls, the picture, and the verdict."""
    from experiments.claims.counting_walls import crossing, picture
    from experiments.claims.counting_walls.grammar import Range, Synonyms
    from experiments.claims.counting_walls.text import text_figures
    from experiments.claims.verdicts import conclude
    from experiments.counts.loading import load_counted
    from experiments.frame.measurements import measured
    from lmseq import plotting
    from lmseq.config.text import TextConfig

    config, distances = whole.walls, numbers(whole.grammar.distances, "distances")
    counted = load_counted(TextConfig(corpus=config.corpus, level="word"))
    texts = {level: crossing.load_level(config.corpus, level) for level in crossing.LEVELS}
    synonyms = Synonyms(whole.grammar, config.seed)
    far = Range(whole.grammar, distances, config.seed)

    def figures(unit: dict[str, Any]) -> dict[str, Any]:
        match unit["wall"]:
            case "zeros" | "storage":
                return text_figures(unit, counted, config.num_parts, config.least_count)
            case "synonyms":
                return synonyms(unit["model"])
            case "range":
                return far(unit["model"])
            case _:
                return crossing.losses_at(whole.crossing, texts[unit["level"]], unit["size"], config.seed)

    found: dict[str, list[dict[str, Any]]] = {}
    for record in measured(workdir, units(whole, texts), figures):
        found.setdefault(record["wall"], []).append(record)
    summary, checks = {}, []
    for judge in (judge_zeros, judge_storage, judge_synonyms, judge_range, judge_crossing):
        more, more_checks = judge(whole, found)
        summary, checks = summary | more, checks + more_checks
    panels = picture.panels(config.corpus, distances, found, summary)
    plotting.save_figure(plotting.draw_panels(panels), workdir / CLAIM.pictures[0])
    return {**summary, **conclude(checks)}


def units(whole: CountingWallsRun, texts: dict[str, Any]) -> list[dict[str, Any]]:
    """What is measured, in order; of storage, part -1 is the whole text."""
    from experiments.claims.counting_walls.crossing import measured_sizes

    parts = range(whole.walls.num_parts)
    found: list[dict[str, Any]] = [{"wall": "zeros", "part": part} for part in parts]
    found += [{"wall": "storage", "part": part} for part in (-1, *parts)]
    found += [{"wall": "synonyms", "model": model} for model in ("order_2", "order_3", "neural")]
    found += [{"wall": "range", "model": model} for model in ("truth", *COUNT_MODELS, "mlp", "gru")]
    for level, loaded in texts.items():
        sizes = numbers(getattr(whole.crossing, f"{level}_sizes"), f"{level}_sizes")
        available = int(loaded.ids["train"].size)
        found += [
            {"wall": "crossing", "level": level, "size": size} for size in measured_sizes(sizes, available)
        ]
    return found


Judged = tuple[dict[str, Any], list[Any]]
Found = dict[str, list[dict[str, Any]]]


def judge_zeros(whole: CountingWallsRun, found: Found) -> Judged:
    """Many held-out lines have probability zero from order 2 on, more at order 3; smoothed, none has."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import exact, flat, interval

    shares = np.array([record["maximum_likelihood"] for record in found["zeros"]])
    smoothed = np.array([record["smoothed"] for record in found["zeros"]])
    summary: dict[str, Any] = {"zero_share_smoothed": float(smoothed.max())}
    for order, column in zip(ORDERS, shares.T, strict=False):
        summary |= flat(f"zero_share_order_{order}", interval(column))
    return summary, [
        Check("share of lines with probability zero, order 2", interval(shares[:, 1]), low=MANY),
        Check("the same, order 3 minus order 2", interval(shares[:, 2] - shares[:, 1]), low=0.0),
        Check("the largest share after smoothing, any order", exact(float(smoothed.max())), high=0.0),
    ]


def judge_storage(whole: CountingWallsRun, found: Found) -> Judged:
    """Longer n-grams grow almost as the text does, and are few among all that are possible."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import exact, flat, interval

    text, *parts = found["storage"]
    exponents = np.array([record["exponents"] for record in parts])
    num_types, distinct = text["types"][-1], text["distinct"][-1]
    summary: dict[str, Any] = {"num_tokens": text["tokens"][-1], "num_types": num_types}
    for place, order in enumerate(ORDERS):
        summary |= flat(f"ngram_exponent_{order}", interval(exponents[:, place])) | {
            f"num_ngrams_{order}": distinct[place],
            f"share_of_possible_{order}": distinct[place] / num_types**order,
            f"num_bytes_{order}": text["bytes"][place],
        }
    return summary, [
        Check("exponent of distinct 3-grams in tokens", interval(exponents[:, 2]), low=0.8),
        Check("the same minus that of words", interval(exponents[:, 2] - exponents[:, 0]), low=0.0),
        Check("distinct 3-grams among V^3", exact(summary["share_of_possible_3"]), high=1e-4),
    ]


def judge_synonyms(whole: CountingWallsRun, found: Found) -> Judged:
    """A net loses less than counts on pairs that were never seen; its embeddings know the classes."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    by_model = {record["model"]: record for record in found["synonyms"]}
    losses = {name: np.array(record["kl"]) for name, record in by_model.items()}
    best = min(("order_2", "order_3"), key=lambda name: losses[name].mean())
    within, between = np.array(by_model["neural"]["cosines"]).T
    summary = flat("kl_unseen_counts", interval(losses[best]))
    for name, values in losses.items():
        summary |= flat(f"kl_unseen_{name}", interval(values))
    summary |= flat("cosine_within", interval(within)) | flat("cosine_between", interval(between))
    gap = interval(losses[best] - losses["neural"])
    return summary, [
        Check("nats lost on unseen pairs, best counts minus the net", gap, low=0.0),
        Check("cosine within a class minus between classes", interval(within - between), low=0.0),
    ]


def judge_range(whole: CountingWallsRun, found: Found) -> Judged:
    """Counts guess at every distance, a window beyond its length; a hidden state knows at all."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import exact, flat, interval

    summary: dict[str, Any] = {}
    checks, distances = [], np.array(numbers(whole.grammar.distances, "distances"))
    for record in found["range"]:
        name, by_seed = record["model"], np.array(record["agreement"])
        alone = len(by_seed) == 1  # the truth, which no seed moves
        of = [exact(float(column[0])) if alone else interval(column) for column in by_seed.T]
        for distance, each in zip(distances, of, strict=True):
            summary |= flat(f"agreement_{name}_at_{distance}", each)
            if name == COUNT_MODELS[-1]:
                summary |= flat(f"agreement_counts_at_{distance}", each)
        reach = {"mlp": whole.grammar.tau}.get(name, 0 if name in COUNT_MODELS else int(distances[-1]))
        if (inside := distances <= reach).any():
            least = by_seed[:, inside].min(axis=1)
            what = f"agreement of {name}, the least up to {reach} words"
            checks.append(Check(what, exact(float(least[0])) if alone else interval(least), low=KNOWN))
        if (beyond := distances > reach).any():
            off = interval(np.abs(by_seed[:, beyond] - 0.5).max(axis=1))
            checks.append(Check(f"agreement of {name} less 1/2, beyond {reach} words", off, high=BLIND))
    return summary, checks


def judge_crossing(whole: CountingWallsRun, found: Found) -> Judged:
    """Counts are better where there is least text; where the net overtakes is a figure, not a claim."""
    from experiments.claims.counting_walls.crossing import LEVELS, crossing
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    summary: dict[str, Any] = {}
    checks = []
    for level in LEVELS:
        records = [record for record in found["crossing"] if record["level"] == level]
        gaps = [interval(record["counts"] - np.array(record["gru"])) for record in records]
        for record, gap in zip(records, gaps, strict=True):
            name = f"{level}s_{record['size']}"
            summary |= flat(f"loss_gru_{name}", interval(record["gru"])) | flat(f"gap_{name}", gap)
            summary |= {f"loss_counts_{name}": record["counts"], f"order_{name}": record["order"]}
        sizes = [record["size"] for record in records]
        summary[f"crossing_{level}s"] = crossing(sizes, [gap.mean for gap in gaps])
        what = f"loss of counts minus the net's on {sizes[0]:,} {level}s"
        checks.append(Check(what, gaps[0], high=0.0))
    return summary, checks


def facts(whole: CountingWallsRun) -> dict[str, Any]:
    """The text; the grammar is fixed by the config."""
    from experiments.text.loading import corpus_facts

    return {**corpus_facts(whole.walls.corpus), "source": "grammar of synonyms and agreement"}


CLAIM = make_claim(
    module="experiments.claims.counting_walls",
    doc=__doc__,
    sentence=(
        "Counts give zero to what they never saw until they are smoothed, store n-grams almost as fast as "
        "the text grows, know nothing of synonyms and forget what lies before their n-grams; on little text "
        "they are still better than a recurrent net."
    ),
    pictures=("counting_walls.png",),
    config=CountingWallsRun,
    quick={
        "synonym_seeds": 5,
        "range_seeds": 3,
        "range_steps": 1500,
        "range_tokens": 200_000,
        "char_sizes": "8192,32768",
        "word_sizes": "4096",
        "num_passes": 4,
        "char_units": 64,
        "crossing_seeds": 2,
    },
    check=check,
    facts=facts,
    measure=measure,
)
