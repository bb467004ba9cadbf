"""Two walls of counting, measured on a grammar whose probabilities are known: synonyms, and range."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from experiments.claims import known_sources
from experiments.claims.counting_walls.settings import GrammarConfig
from experiments.frame.progress import steps_bar
from lmseq.config.language_model import ModelConfig
from lmseq.config.training import TrainConfig
from lmseq.contract import Model
from lmseq.data.sources import Grammar, make_grammar
from lmseq.models.build import build_model
from lmseq.models.sources import put_source
from lmseq.ngram.backoff import score_words
from lmseq.ngram.counts import EOS_ID, FIRST_WORD_ID, count_ngrams, mark_sentences
from lmseq.ngram.smoothing import modified_kneser_ney
from lmseq.training.fit import fit_members
from lmseq.training.job import Batches
from lmseq.types import Params

SYNONYM_ORDERS, RANGE_ORDERS = (2, 3), (3, 4, 5)
SYNONYM_NET = ModelConfig(model="mlp", tau=1, hidden_size=16, embedding_size=8)
NEAR = (2, 3)  # distances that are trained on too: what is learned there, nets carry farther
NUM_PROMPTS = 128  # of each number, at each distance


Predict = Callable[[np.ndarray], np.ndarray]  # prompts (N, T) to ln P of every symbol after each, (N, V)


def fit_sample_counts(stream: np.ndarray, vocab_size: int, order: int) -> Predict:
    """Modified Kneser-Ney of a sample, which is one sentence; its end is no symbol and never comes."""
    marked = mark_sentences([FIRST_WORD_ID + stream])
    counts = count_ngrams(marked, FIRST_WORD_ID + vocab_size, order)
    tables = modified_kneser_ney(counts, discount_fallback=True).tables

    def predict(prompts: np.ndarray) -> np.ndarray:
        asked = mark_sentences(list(FIRST_WORD_ID + prompts))
        next_place = asked == EOS_ID
        words = range(FIRST_WORD_ID, FIRST_WORD_ID + vocab_size)
        found = np.stack([score_words(tables, asked, word)[next_place] for word in words], axis=1)
        return found - np.logaddexp.reduce(found, axis=1, keepdims=True)

    return predict


@partial(jax.jit, static_argnums=0)
def _read(model: Model, params: Params, prompts: jax.Array) -> jax.Array:
    carry = model.unroll(params, model.init_carry(params, prompts.shape[0]), prompts)[0]
    return model.readout(params, carry)


def predictor(model: Model, params: Params) -> Predict:
    """What a model under the contract says after prompts, float64."""
    return lambda prompts: np.asarray(_read(model, params, prompts.astype(np.int32)), np.float64)


def openings(grammar: Grammar, num_prompts: int) -> np.ndarray:
    """The same first sentence for each prompt (N, 3), so that a second one begins where it ends."""
    return np.tile([grammar.nouns[0, 0], grammar.verbs[0, 0], grammar.period], (num_prompts, 1))


# Synonyms


def unseen_pairs(stream: np.ndarray, grammar: Grammar) -> tuple[np.ndarray, np.ndarray]:
    """Nouns and verbs (P,) of one class that both occur in a sample, but never beside each other."""
    vocab_size = grammar.source.vocab_size
    occurs, beside = np.zeros(vocab_size, bool), np.zeros((vocab_size, vocab_size), bool)
    occurs[stream] = True
    beside[stream[:-1], stream[1:]] = True
    nouns = np.repeat(grammar.nouns, grammar.verbs.shape[1], axis=1).reshape(-1)
    verbs = np.tile(grammar.verbs, (1, grammar.nouns.shape[1])).reshape(-1)
    kept = occurs[nouns] & occurs[verbs] & ~beside[nouns, verbs]
    return nouns[kept], verbs[kept]


def share_of_divergence(true_probs: np.ndarray, log_probs: np.ndarray) -> float:
    """sum p ln(p / q) / sum p over chosen outcomes, in nats: what q loses each time one of them comes.

    Over all outcomes it is the Kullback-Leibler divergence of q from p.
    """
    inside = true_probs > 0.0
    terms = true_probs[inside] * (np.log(true_probs[inside]) - log_probs[inside])
    return float(terms.sum() / true_probs.sum())


def class_cosines(vectors: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    """Mean cosine of the vectors of two words of a class (C, n), and of two of different classes."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids, cls = classes.reshape(-1), np.repeat(np.arange(len(classes)), classes.shape[1])
    cosines, same = unit[ids] @ unit[ids].T, cls[:, None] == cls[None]
    return float(cosines[same & ~np.eye(len(ids), dtype=bool)].mean()), float(cosines[~same].mean())


class Synonyms:
    """Measures models on samples in which most pairs of a class are missing, though their words are not."""

    def __init__(self, config: GrammarConfig, seed: int) -> None:
        self._config = config
        self._seeds = list(range(seed, seed + config.synonym_seeds))
        self._grammar = make_grammar(num_fillers=5, distances=(2,), agreement_share=0.05)

    @cached_property
    def _streams(self) -> list[np.ndarray]:
        return known_sources.samples(self._grammar.source, self._seeds, self._config.synonym_tokens)

    def __call__(self, name: str) -> dict[str, Any]:
        """Nats lost on unseen pairs, one figure a seed, by `order_N` or by `neural`; of this, cosines too."""
        vocab_size = self._grammar.source.vocab_size
        if name != "neural":
            order = int(name.removeprefix("order_"))
            fitted = [fit_sample_counts(stream, vocab_size, order) for stream in self._streams]
            return {"kl": self._divergences(fitted)}
        model, length, steps = build_model(SYNONYM_NET, vocab_size), 16, self._config.synonym_steps
        train = TrainConfig(
            learning_rate=0.01,
            num_train_steps=steps,
            warmup_steps=min(20, steps - 1),
            steps_per_dispatch=100,
        )
        batches = Batches(length, length, "random")
        with steps_bar(steps) as show:
            found = fit_members(model, self._streams, train, self._seeds, batches=batches, on_steps=show)
        embeddings = [np.asarray(params["embedding"]) for params in found]
        return {
            "kl": self._divergences([predictor(model, params) for params in found]),
            "cosines": [class_cosines(embedding, self._grammar.nouns) for embedding in embeddings],
        }

    def _divergences(self, fitted: Sequence[Predict]) -> list[float]:
        nouns = self._grammar.nouns.reshape(-1)
        prompts = np.hstack([openings(self._grammar, nouns.size), nouns[:, None]])
        true_probs = np.exp(predictor(*put_source(self._grammar.source))(prompts))
        found = []
        for predict, stream in zip(fitted, self._streams, strict=True):
            first, second = unseen_pairs(stream, self._grammar)
            rows = np.searchsorted(nouns, first)  # nouns have ascending ids
            found.append(share_of_divergence(true_probs[rows, second], predict(prompts)[rows, second]))
        return found


# Range


def agreement(predict: Predict, grammar: Grammar, distance: int) -> float:
    """Mean share of the right number's verbs in the probability of both numbers', `distance` after a subject.

    The fillers between are the same for both numbers, so that what does not see the subject has 1/2 exactly.
    """
    rng = np.random.default_rng(distance)
    fillers = rng.choice(grammar.fillers, (NUM_PROMPTS, distance - 1))
    shares = []
    for number in (0, 1):
        subjects = rng.choice(grammar.subjects[number], (NUM_PROMPTS, 1))
        prompts = np.hstack([openings(grammar, NUM_PROMPTS), subjects, fillers])
        probs = np.exp(predict(prompts))
        right, wrong = (probs[:, grammar.agreeing[which]].sum(axis=1) for which in (number, 1 - number))
        shares.append(right / (right + wrong))
    return float(np.mean(shares))


class Range:
    """Measures how far a subject's number is carried."""

    def __init__(self, config: GrammarConfig, distances: Sequence[int], seed: int) -> None:
        self._config, self._distances = config, distances
        self._seeds = list(range(seed, seed + config.range_seeds))
        self._grammar = make_grammar(2, 5, 5, (*NEAR, *distances), agreement_share=0.5)

    @cached_property
    def _streams(self) -> list[np.ndarray]:
        return known_sources.samples(self._grammar.source, self._seeds, self._config.range_tokens)

    def __call__(self, name: str) -> dict[str, Any]:
        """Agreement by seed and distance of `truth`, `order_N`, `mlp` or `gru`."""
        vocab_size, config = self._grammar.source.vocab_size, self._config
        if name == "truth":
            fitted = [predictor(*put_source(self._grammar.source))]
        elif name.startswith("order_"):
            order = int(name.removeprefix("order_"))
            fitted = [fit_sample_counts(stream, vocab_size, order) for stream in self._streams]
        else:
            model = build_model(range_net(config, name), vocab_size)
            found = self._fit(model, 0.01 if name == "mlp" else 6e-3)
            fitted = [predictor(model, params) for params in found]
        return {
            "agreement": [
                [agreement(predict, self._grammar, distance) for distance in self._distances]
                for predict in fitted
            ]
        }

    def _fit(self, model: Model, learning_rate: float) -> list[Params]:
        steps, num_steps, batch_size = self._config.range_steps, 64, 32
        train = TrainConfig(
            learning_rate=learning_rate,
            num_train_steps=steps,
            warmup_steps=min(50, steps - 1),
            steps_per_dispatch=100,
        )
        batches = Batches(batch_size, num_steps)
        with steps_bar(steps) as show:
            return fit_members(model, self._streams, train, self._seeds, batches=batches, on_steps=show)


def range_net(config: GrammarConfig, name: str) -> ModelConfig:
    """The perceptron on a window, or the recurrent net."""
    if name == "mlp":
        return ModelConfig(model="mlp", tau=config.tau, hidden_size=2 * config.hidden_size, embedding_size=16)
    return ModelConfig(model="gru", hidden_size=config.hidden_size)
