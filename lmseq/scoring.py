"""Chain rule: log P(x_1 ... x_T) = sum_t log P(x_t | x_1 ... x_{t-1}), and the figures made of it."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from lmseq.contract import Model, as_stream, is_in_order, log_prob, num_symbols
from lmseq.data.partition import scoring as scoring_plan
from lmseq.data.partition import take_batch
from lmseq.programs import program
from lmseq.strips import carries_in_order, chain_strips, guess_last
from lmseq.types import Elements, NllTotals, Params, Stream, TokenLogProbs, Tokens


def sequence_log_probs(model: Model, params: Params, tokens: Elements) -> TokenLogProbs:
    """Log-probability in nats of every token of each row of tokens (B, T), T >= 1, float32 (B, T).

    The first token counts: entry 0 comes from the readout of the initial carry, entry t from the
    carry that has seen tokens 0 ... t - 1. A row's sum is its log-likelihood. Of values (B, T, D) it is
    the log-density of each row of D.
    """
    carry = model.init_carry(params, tokens.shape[0])
    first = log_prob(model.readout(params, carry), tokens[:, 0])
    if tokens.shape[1] == 1:
        return first[:, None]
    _, rest = model.token_log_probs(params, carry, tokens[:, :-1], tokens[:, 1:])
    return jnp.concatenate([first[:, None], rest], axis=1)


def score(model: Model, params: Params, tokens: Stream) -> Float[Array, "time"]:
    """Log-probability in nats of every token of one sequence (T,), or value (T, D), the first included.

    `score_stream` gives the same for streams too long for one unroll.
    Raises ValueError for an empty sequence.
    """
    tokens = as_stream(tokens)
    if tokens.ndim != (2 if jnp.issubdtype(tokens.dtype, jnp.floating) else 1) or not tokens.size:
        raise ValueError(
            f"expected at least one token in one sequence (T,), or value in (T, D), got shape {tokens.shape}"
        )
    return _jit_sequence_log_probs(model, params, tokens[None])[0]


_jit_sequence_log_probs = jax.jit(sequence_log_probs, static_argnums=0)


def nll_totals(log_probs: TokenLogProbs, mask: Bool[Array, "batch time"]) -> NllTotals:
    """Sum of -log P over the tokens where the mask holds, and their number."""
    # where, not a product: a masked -inf must vanish, and -inf * 0 is NaN.
    return NllTotals(-jnp.sum(jnp.where(mask, log_probs, 0.0)), jnp.sum(mask, dtype=jnp.int32))


def loss_figures(nll: float, num_tokens: int, num_chars: int | None = None) -> dict[str, float]:
    """`loss` (nats per token), `perplexity` = exp(loss) and, given characters, `bits_per_char`.

    nll is a sum in nats over num_tokens >= 1 tokens that spell num_chars characters; bits per
    character, nll / (ln 2 * num_chars), compare between tokenisations. Infinity stays infinity.
    Raises ValueError when there is nothing to divide by.
    """
    if num_tokens < 1 or (num_chars is not None and num_chars < 1):
        raise ValueError(f"expected at least one token and character, got {num_tokens} and {num_chars}")
    loss = nll / num_tokens
    # math.exp raises beyond 709; a loss that large has infinite perplexity in any float.
    figures = {"loss": loss, "perplexity": math.exp(loss) if loss < 709.0 else math.inf}
    if num_chars is not None:
        figures["bits_per_char"] = nll / (math.log(2.0) * num_chars)
    return figures


@program(static_argnums=(0, 5))
def score_strips(model, params, tokens, starts, lengths, num_steps):
    """The program of `score_stream`: log-probabilities of the first token, and of every target of a plan.

    starts, lengths: of a plan of `data.partition.scoring`, (steps, batch). Returns float32 (1,) and (steps,
    batch, num_steps).
    """
    num_windows, num_strips = starts.shape
    blank = model.init_carry(params, num_strips)
    first = log_prob(model.readout(params, model.init_carry(params, 1)), tokens[:1])

    def window(carry, row):
        batch = take_batch(tokens, *row, num_steps)
        carry, log_probs = model.token_log_probs(params, carry, batch.inputs, batch.targets)
        return carry, jnp.where(batch.mask, log_probs, 0.0)

    def run(carry):
        return lax.scan(window, carry, (starts, lengths))

    strips = model, params, tokens, starts[0], num_steps * num_windows
    return first, chain_strips(
        run, partial(carries_in_order, *strips), blank, guess_last(*strips), num_strips
    )[1]


def score_stream(
    model: Model, params: Params, tokens: Stream, *, num_steps: int = 256, batch_size: int = 32
) -> Float[np.ndarray, "time"]:
    """Log-probability in nats of each token of one stream (T,), the first included, float32 (T,).

    Of a stream of values (T, D) it is the log-density of each row of D.

    The state is carried from end to end; num_steps (inputs a window) and batch_size (strips in parallel) set
    the speed and the memory, never the figure; a model that is `in_order` has one strip. Sum it in float64,
    as NumPy arrays allow: `score_stream(...).sum(dtype=np.float64)`; `mean_loss` is the mean of that. Raises
    ValueError for an empty stream.
    """
    tokens = as_stream(tokens)
    length = tokens.shape[0]
    if not length:
        raise ValueError("expected at least one token to score, got an empty stream")
    if length == 1:
        carry = model.init_carry(params, 1)
        return np.asarray(log_prob(model.readout(params, carry), tokens))
    num_steps = min(num_steps, length - 1)
    plan = scoring_plan(length, num_steps, 1 if is_in_order(model) else batch_size)
    first, log_probs = score_strips(
        model, params, tokens, jnp.asarray(plan.starts), jnp.asarray(plan.lengths), num_steps
    )
    # (steps, batch, time) -> (batch, steps, time): stream order, whose tail is past the end.
    in_order = np.asarray(log_probs).swapaxes(0, 1).reshape(-1)[: length - 1]
    return np.concatenate([np.asarray(first), in_order])


MOST_ENTRIES = 2**24  # of the predictions that `score_texts` holds at once


def score_texts(
    model: Model, params: Params, texts: Sequence[Int[ArrayLike, "_"]]
) -> list[Float[np.ndarray, "_"]]:
    """Log-probability in nats of each token of many texts, each (T,), T >= 1, from a fresh carry each.

    What `score` gives for each of them, in rows of one program: texts of nearly equal length are padded to
    the next power of two. Raises ValueError for an empty text.
    """
    lengths = np.array([len(text) for text in texts])
    if lengths.size and not lengths.min():
        raise ValueError("expected at least one token in each text, got an empty one")
    found: list[Any] = [None] * len(texts)
    vocab_size = num_symbols(model, params)
    padded = 2 ** np.ceil(np.log2(np.maximum(lengths, 16))).astype(int)
    for num_steps in np.unique(padded).tolist():
        rows = np.flatnonzero(padded == num_steps)
        most = max(1, MOST_ENTRIES // (num_steps * vocab_size))
        batch_size = min(256, 2 ** int(math.log2(most)), 2 ** math.ceil(math.log2(len(rows))))
        for begin in range(0, len(rows), batch_size):
            batch, part = np.zeros((batch_size, num_steps), np.int32), rows[begin : begin + batch_size]
            for row, text in zip(batch, part, strict=False):
                row[: lengths[text]] = texts[text]
            log_probs = np.asarray(_jit_sequence_log_probs(model, params, batch))
            for row, text in zip(log_probs, part, strict=False):
                found[text] = row[: lengths[text]]
    return found


EXCERPT_STRIPS = 100
EXCERPT_WARM_UP = 256  # tokens before each strip that are read and not counted


class Excerpt(NamedTuple):
    """What is scored of a long stream: strips spread evenly over it, each behind tokens that are only read.

    tokens: int32 (N,), all strips one behind the other. strip: the number of the strip that a token is of, -1
    where it is only read, (N,). num_tokens: of the whole stream.
    """

    tokens: Tokens
    strip: Int[np.ndarray, "time"]
    num_tokens: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return len(self.tokens) == self.num_tokens and not self.strip.any()

    @property
    def counted(self) -> Bool[np.ndarray, "time"]:
        """Which tokens count."""
        return self.strip >= 0


def excerpt(stream: Tokens, most_tokens: int) -> Excerpt:
    """About `most_tokens` of a stream; the whole stream where it is no longer, or for 0."""
    size = len(stream)
    if not 0 < most_tokens < size:
        return Excerpt(np.asarray(stream, np.int32), np.zeros(size, np.int32), size)
    num_strips = min(EXCERPT_STRIPS, most_tokens)
    length = most_tokens // num_strips
    starts = np.linspace(0, size - length, num_strips).astype(np.int64)
    begins = np.maximum(starts - EXCERPT_WARM_UP, 0)
    tokens = [stream[begin : start + length] for begin, start in zip(begins, starts, strict=True)]
    strips = [
        np.where(np.arange(begin, start + length) >= start, number, -1)
        for number, (begin, start) in enumerate(zip(begins, starts, strict=True))
    ]
    return Excerpt(np.concatenate(tokens).astype(np.int32), np.concatenate(strips), size)


def standard_error(part: Excerpt, log_probs: Float[np.ndarray, "time"]) -> float | None:
    """Of the mean loss of an excerpt as that of the whole stream, by the spread of its strips.

    The strips are taken as drawn at random without replacement. None of the whole stream, and of one strip.
    """
    counted = part.counted
    num_counted, num_strips = int(counted.sum()), int(part.strip.max(initial=0)) + 1
    if part.is_whole or num_strips < 2:
        return None
    sums = np.bincount(part.strip[counted], np.asarray(log_probs, np.float64)[counted])
    means = sums / (num_counted / num_strips)
    left = max(0.0, 1 - num_counted / part.num_tokens)
    return float(means.std(ddof=1) * math.sqrt(left / num_strips))


def mean_loss(model: Model, params: Params, stream: Stream) -> float:
    """Mean negative log-likelihood of a stream in nats a token, or a row of values; the first one counts.

    The float64 mean of `score_stream`, whose errors it raises.
    """
    return -float(score_stream(model, params, stream).mean(dtype=np.float64))
