"""The loss of one step ranks models otherwise than their errors several steps ahead.

    python -m experiments.claims.error_growth --workdir=runs/growth

On a series: a model that is trained on true values is the best one step ahead, and behind one that is trained
on its own predictions further on. On a text: counts of short n-grams predict the next character better than a
small recurrent net, and the fourth one worse. What each remedy buys is in the picture.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import make_claim
from experiments.frame.experiment import main
from lmseq.config import knobs
from lmseq.config import series as series_config
from lmseq.config.knobs import knob
from lmseq.config.language_model import ModelConfig
from lmseq.config.series import SeriesConfig, SeriesDataConfig
from lmseq.config.text import TextConfig
from lmseq.config.training import USUAL_WARMUP

NUM_BLOCKS = 20  # of the validation text, whose means an interval is made of
DROPOUT = 0.3


@dataclass(frozen=True)
class GrowthConfig:
    """The series, the text, and the size of each training."""

    series: str = knob("mackey_glass", "series, as in predict_series", is_path=True)
    num_points: int = knob(1000, "length of a synthetic series")
    far: int = knob(8, "steps ahead at which forecasts of the series are compared, beside 1")
    corpus: str = knob("python_docs", "text, as in train_lm", is_path=True)
    order: int = knob(4, "order of the counts")
    text_far: int = knob(4, "characters ahead at which predictions of the text are compared, beside 1")
    hidden_size: int = knob(128, "units of the recurrent net")
    text_steps: int = knob(1200, "optimiser steps of the recurrent net")
    num_origins: int = knob(768, "origins of the k-step-ahead cross-entropy")
    num_samples: int = knob(64, "sampled continuations from each origin")
    series_steps: int = knob(1500, "optimiser steps of each model of the series")
    num_seeds: int = knob(5, "trainings of each model of the series; at least 2")
    seed: int = knob(0, "first seed")


def check(config: GrowthConfig) -> GrowthConfig:
    """ValueError for a setting out of range."""
    knobs.at_least(2, num_seeds=config.num_seeds, text_steps=config.text_steps)
    knobs.at_least(2, series_steps=config.series_steps, order=config.order)
    knobs.at_least(2, 64, far=config.far, text_far=config.text_far)
    knobs.at_least(2, knobs.MOST_DRAWS, num_origins=config.num_origins)
    knobs.at_least(1, knobs.MOST_DRAWS, num_samples=config.num_samples)
    knobs.at_least(1, knobs.MOST_UNITS, hidden_size=config.hidden_size)
    series_config.check(series_settings(config))
    return config


def series_settings(config: GrowthConfig) -> SeriesConfig:
    """The settings of a training on the series."""
    base = SeriesConfig(data=SeriesDataConfig(series=config.series, num_points=config.num_points))
    train = dataclasses.replace(
        base.train,
        num_train_steps=config.series_steps,
        warmup_steps=min(USUAL_WARMUP, config.series_steps - 1),
        seed=config.seed,
    )
    return dataclasses.replace(base, train=train)


def prepared_series(config: GrowthConfig) -> Any:
    """The series, long enough for every objective: the longest segments are those of several steps ahead."""
    from experiments.series.loading import prepare

    settings = series_settings(config)
    longest = dataclasses.replace(settings.objective, objective="unrolled")
    return prepare(dataclasses.replace(settings, objective=longest))


def text_figures(config: GrowthConfig) -> dict[str, Any]:
    """Losses of counts and of a recurrent net: by block of the text, and k steps ahead by origin."""
    from experiments.text.loading import load_texts
    from experiments.text.text_models import fit_neural
    from lmseq import scoring
    from lmseq.models.build import build_model
    from lmseq.models.ngram import fit_counts

    texts = load_texts(TextConfig(corpus=config.corpus))
    valid = texts.ids["valid"]
    counts = fit_counts(texts, config.order, config.order)
    kind = ModelConfig(hidden_size=config.hidden_size, dropout=DROPOUT)
    net = build_model(kind, len(texts.vocab))
    seeds = (config.seed, config.seed + 1)
    fitted = fit_neural(net, texts, seeds, config.text_steps)
    found = {}
    for name, model, each in (("counts", counts.model, [counts.params]), ("gru", net, fitted)):
        # Of a net, the mean over its trainings, token by token.
        log_probs = np.mean([scoring.score_stream(model, params, valid) for params in each], axis=0)
        blocks = [-float(part.mean(dtype=np.float64)) for part in np.array_split(log_probs, NUM_BLOCKS)]
        ahead = np.mean([steps_ahead(config, model, params, valid) for params in each], axis=0)
        found[name] = {"blocks": blocks, "ahead": (-ahead).round(4).tolist()}
    return found


def steps_ahead(config: GrowthConfig, model: Any, params: Any, tokens: np.ndarray) -> np.ndarray:
    """ln P of the tokens 1 ... 64 ahead, by origin."""
    import jax

    from lmseq import rollout

    return rollout.k_step_log_probs(
        jax.random.key(config.seed),
        model,
        params,
        tokens,
        max_horizon=64,
        num_origins=min(config.num_origins, tokens.size - 64),
        num_samples=config.num_samples,
    )


def measure(config: GrowthConfig, workdir: Path) -> dict[str, Any]:
    """Error curves of the series by objective and seed, and losses of the text."""
    from experiments.claims.verdicts import conclude
    from experiments.frame.measurements import measured
    from experiments.series.remedies import OBJECTIVES, ErrorCurves

    curves = ErrorCurves(series_settings(config), prepared_series(config))
    seeds = range(config.seed, config.seed + config.num_seeds)
    units = [{"objective": objective, "seed": seed} for objective in OBJECTIVES for seed in seeds]

    def figures(unit: dict[str, Any]) -> dict[str, Any]:
        return curves(unit) if "objective" in unit else text_figures(config)

    *of_series, of_text = measured(workdir, [*units, {"text": config.corpus}], figures)
    rmse = {o: np.array([r["rmse"] for r in of_series if r["objective"] == o]) for o in OBJECTIVES}
    summary, checks = series_checks(config, rmse)
    more, more_checks = text_checks(config, of_text)
    draw(config, rmse, of_text, workdir)
    return {**summary, **more, **conclude([*checks, *more_checks])}


def series_checks(config: GrowthConfig, rmse: dict[str, np.ndarray]) -> tuple[dict[str, Any], list[Any]]:
    """RMSE by objective: teacher forcing leads at one step and is behind `unrolled` at `far` steps."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    far = min(config.far, rmse["unrolled"].shape[1])
    summary: dict[str, Any] = {}
    for name, curves in rmse.items():
        for k in (1, far):
            summary |= flat(f"{name}_rmse_at_{k}", interval(curves[:, k - 1]))
        gain = 1.0 - curves[:, far - 1] / rmse["teacher_forcing"][:, far - 1]
        summary |= flat(f"{name}_gain_at_{far}", interval(gain))
    ratio = np.log(rmse["unrolled"] / rmse["teacher_forcing"])
    what = "ln of RMSE, unrolled over teacher forcing, {} ahead"
    return summary, [
        Check(what.format(1), interval(ratio[:, 0]), low=0.0),
        Check(what.format(far), interval(ratio[:, far - 1]), high=0.0),
    ]


def text_checks(config: GrowthConfig, found: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Counts are better at the next character, the net at the one `text_far` ahead."""
    from experiments.claims.verdicts import Check
    from experiments.frame.intervals import flat, interval

    ahead = {name: np.array(found[name]["ahead"]) for name in ("counts", "gru")}
    blocks = {name: np.array(found[name]["blocks"]) for name in ("counts", "gru")}
    summary: dict[str, Any] = {"horizon_origins": len(ahead["gru"]), "horizon_samples": config.num_samples}
    for name in ahead:
        summary[f"{name}_loss"] = float(blocks[name].mean())
        for k in sorted({1, 4, 16, 64, config.text_far}):
            summary |= flat(f"{name}_loss_at_{k}", interval(ahead[name][:, k - 1]))
    k, gap = config.text_far, ahead["counts"] - ahead["gru"]
    what = f"{config.order}-grams minus recurrent net, nats, {{}} ahead (over parts of the text)"
    return summary, [
        Check(what.format(1), interval(blocks["counts"] - blocks["gru"]), high=0.0),
        Check(what.format(k), interval(gap[:, k - 1]), low=0.0),
    ]


def draw(config: GrowthConfig, rmse: dict[str, np.ndarray], of_text: dict[str, Any], workdir: Path) -> None:
    """error_growth.png: RMSE(k) of the series by objective, L(k) of the text by model."""
    from experiments.frame.intervals import interval
    from lmseq import plotting
    from lmseq.plotting import Curve, Panel

    def curve(label: str, samples: np.ndarray, style: str) -> Curve:
        ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples.shape[1]]
        mean, low, high = np.array([interval(samples[:, k - 1]) for k in ks]).T
        return Curve(label, ks, mean, low, high, style)

    styles = ("o-", "s-", "^-", "v-", "D-")
    series = [
        curve(name.replace("_", " "), found, style)
        for (name, found), style in zip(rmse.items(), styles, strict=True)
    ]
    text = [
        curve(f"{config.order}-gram counts", np.array(of_text["counts"]["ahead"]), "o-"),
        curve(f"gru, {config.hidden_size} units", np.array(of_text["gru"]["ahead"]), "s-"),
    ]
    panels = [
        Panel(
            f"{config.series}: what each remedy buys",
            "k, steps ahead on own predictions",
            "RMSE, units of the series",
            series,
            log="xy",
        ),
        Panel(
            f"{config.corpus}: the ranks change with k",
            "k, characters ahead on own continuations",
            "cross-entropy, nats a character",
            text,
            log="x",
        ),
    ]
    plotting.save_figure(plotting.draw_panels(panels), workdir / CLAIM.pictures[0])


def facts(config: GrowthConfig) -> dict[str, Any]:
    """The text and the series, both read, so that what is missing is said before anything is written."""
    from experiments.text.loading import corpus_facts

    text = corpus_facts(config.corpus)
    text["text_sha256"] = text.pop("sha256")
    return {**text, **prepared_series(config).facts()}


CLAIM = make_claim(
    module="experiments.claims.error_growth",
    doc=__doc__,
    sentence="The loss of one step ranks models otherwise than their errors several steps ahead.",
    pictures=("error_growth.png",),
    config=GrowthConfig,
    quick={"num_seeds": 4, "series_steps": 800, "text_steps": 800, "num_origins": 512},
    check=check,
    facts=facts,
    measure=measure,
)


if __name__ == "__main__":
    main(CLAIM)
