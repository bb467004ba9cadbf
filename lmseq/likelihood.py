"""Chain rule: log P(x_1 ... x_T) = sum_t log P(x_t | x_1 ... x_{t-1}), and the figures made of it."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmseq.contract import Model, as_stream, log_prob
from lmseq.types import Elements, NllTotals, Params, Stream, TokenLogProbs


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

    `evaluation.score_stream` gives the same for streams too long for one unroll.
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
