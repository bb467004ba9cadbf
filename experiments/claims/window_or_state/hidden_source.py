"""Windows and hidden states on a hidden Markov source, whose H_tau and entropy rate are known."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lmseq.config import knobs
from lmseq.config.knobs import knob
from lmseq.config.language_model import ModelConfig
from lmseq.data import sources

NEAR = 0.01  # of the entropy rate: as near as the recurrent net must come to it
SHORT = 3  # the longest of the short windows whose H_tau it must pass below
WINDOWS = (1, 2, 4)  # that are also trained


@dataclass(frozen=True)
class HiddenConfig:
    """The hidden Markov source, and the training on it."""

    num_states: int = knob(2, "hidden states of the source")
    vocab_size: int = knob(3, "its symbols")
    stay: float = knob(0.97, "probability of staying in a state")
    accuracy: float = knob(0.6, "probability of a state's own symbols, beside their share of the rest")
    longest_window: int = knob(10, "longest window whose H_tau is enumerated")
    num_tokens: int = knob(600_000, "tokens of each sample; a third of them are for the test")
    source_steps: int = knob(1500, "optimiser steps of each training on the source")


def check(recall: Any, config: HiddenConfig) -> None:
    """ValueError for a setting out of range."""
    knobs.at_least(SHORT, 20, longest_window=config.longest_window)
    knobs.at_least(50_000, 10**7, num_tokens=config.num_tokens)
    knobs.at_least(2, source_steps=config.source_steps)
    knobs.at_least(2, 1000, num_states=config.num_states, vocab_size=config.vocab_size)
    try:
        sources.entropy_brackets(make_source(recall.seed, config), config.longest_window)
    except ValueError as error:
        raise ValueError(f"{error}: take a smaller longest_window or vocab_size") from None


def make_source(seed: int, config: HiddenConfig) -> sources.HiddenMarkov:
    """The source that the seed fixes."""
    rng = np.random.default_rng((seed, 8))
    return sources.random_hidden_markov(
        rng, config.num_states, config.vocab_size, config.stay, config.accuracy
    )


class Source:
    """Measures models on the source: `units` are what is measured, `judge` what it comes to."""

    def __init__(self, recall: Any, config: HiddenConfig) -> None:
        self._recall, self._config = recall, config
        self._seeds = range(recall.seed, recall.seed + recall.num_seeds)
        self._source = make_source(recall.seed, config)

    @cached_property
    def _streams(self) -> list[np.ndarray]:
        from experiments.claims import known_sources

        return known_sources.samples(self._source, self._seeds, self._config.num_tokens)

    def units(self) -> list[dict[str, Any]]:
        """The truth, perceptrons on windows (`window` 0: the recurrent net)."""
        return [{"source": "truth"}, *({"source": "model", "window": tau} for tau in (*WINDOWS, 0))]

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        """Test losses in nats, one a seed."""
        from experiments.claims import known_sources

        if unit["source"] == "truth":
            return {"losses": known_sources.source_losses(self._source, self._streams)}
        kind = ModelConfig(model=self._recall.cell, hidden_size=self._recall.hidden_size)
        if unit["window"]:
            kind = ModelConfig(
                model="mlp", tau=unit["window"], embedding_size=16, hidden_size=self._recall.hidden_size
            )
        steps = self._config.source_steps
        losses = known_sources.neural_losses(kind, self._config.vocab_size, self._seeds, self._streams, steps)
        return {"losses": losses}

    def judge(self, records: list[dict[str, Any]], picture: Path) -> tuple[dict[str, Any], list[Any]]:
        """Losses beside H_tau and the rate, the picture, and what the claim says of them.

        The chance of the test tokens is the same for the truth: losses are compared as differences from it,
        to which the exact rate is added.
        """
        from experiments.claims.verdicts import Check
        from experiments.frame.intervals import exact, flat, interval

        bounds = sources.entropy_brackets(self._source, self._config.longest_window)
        rate = float(bounds.lower[-1] + bounds.upper[-1]) / 2
        truth, *models = (np.array(record["losses"]) for record in records)
        losses = {
            tau: interval(found - truth + rate) for tau, found in zip((*WINDOWS, 0), models, strict=True)
        }
        cell, width = self._recall.cell, float(bounds.upper[-1] - bounds.lower[-1])
        summary = {"source_rate": rate, "source_rate_width": width}
        summary |= {f"source_h_{tau}": float(h) for tau, h in enumerate(bounds.upper)}
        for tau, found in losses.items():
            summary |= flat(f"source_loss_{f'tau_{tau}' if tau else cell}", found)
        net = losses[0]
        checks = [
            Check("bracket of the exact rate, relative", exact(width / rate), high=NEAR / 4),
            Check(f"{cell} on the hidden Markov source, nats", net, high=(1 + NEAR) * rate),
            Check(f"{cell} against H_{SHORT}, nats", net, high=float(bounds.upper[SHORT])),
        ]
        for tau in WINDOWS:
            checks.append(
                Check(
                    f"window of {tau} against H_{tau}, nats", exact(losses[tau].high), low=bounds.upper[tau]
                )
            )
        self._draw(bounds, rate, losses, picture)
        return summary, checks

    def _draw(self, bounds: Any, rate: float, losses: dict[int, Any], picture: Path) -> None:
        from lmseq import plotting
        from lmseq.plotting import Curve, Panel

        taus = np.arange(len(bounds.upper))
        mean, low, high = np.array([losses[tau] for tau in WINDOWS]).T
        net = losses[0]
        curves = [
            Curve("H_tau, by enumeration", taus, bounds.upper, style="k-"),
            Curve("perceptron on tau tokens", WINDOWS, mean, low, high, style="s"),
            Curve(self._recall.cell, [taus[-1]], [net.mean], [net.low], [net.high], style="D"),
        ]
        panel = Panel(
            "a hidden Markov source: what windows cannot know",
            "tau, tokens that the model sees (recurrent net: all)",
            "test cross-entropy, nats a token",
            curves,
            {"entropy rate": rate},
        )
        plotting.save_figure(plotting.draw_panels([panel]), picture)
