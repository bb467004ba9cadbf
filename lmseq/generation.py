"""Generation: warm up on a prompt, then sample many streams at once, or search with a beam."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Key

from lmseq.config.knobs import MOST_DRAWS, at_least
from lmseq.contract import Drawable, Model, gather_log_probs, num_symbols, repeat_carry
from lmseq.programs import program
from lmseq.sampling import Decoding, check_decoding, choose, without
from lmseq.types import Carry, Element, Params, PRNGKey, Tokens


class Samples(NamedTuple):
    """S continuations of N tokens, and each token's log-probability in nats under the model itself.

    The model's own, whatever temperature, truncation or tokens left out chose them: log_probs.sum(axis=1) is
    log P(continuation | prompt).
    """

    tokens: Int[Array, "sample time"]
    log_probs: Float[Array, "sample time"]


def warm_up(model: Model, params: Params, prompt: Tokens) -> Carry:
    """The carry, batch 1, that has seen a prompt (T,); of an empty prompt, the initial one."""
    carry = model.init_carry(params, 1)
    return model.unroll(params, carry, prompt[None])[0] if prompt.shape[0] else carry


def check_lengths(num_samples: int, num_tokens: int) -> None:
    """ValueError for a number of continuations, or of tokens of each, that is out of range."""
    at_least(1, MOST_DRAWS, num_samples=num_samples)
    at_least(1, 100 * MOST_DRAWS, num_tokens=num_tokens)


MANY = 1000  # symbols


def prepare_draws(model: Model, params: Params, decoding: Decoding) -> Any:
    """What `contract.Drawable.draw` looks up; None where tokens are drawn from whole distributions.

    Made on the host, and so not under `jit`.

    So they are with any other temperature or truncation than none, of all models but a `Drawable`, and of
    fewer than MANY symbols, whose distributions take less time than to look a draw up.
    """
    is_whole = decoding != Decoding() or not isinstance(model, Drawable) or num_symbols(model, params) < MANY
    return None if is_whole else model.prepare_draws(params)


# Of each token of S continuations: the numbers of [0, 1) that `sampling.choose` takes, or a key.
Chances = tuple[Float[Array, "time sample 1"], ...] | Key[Array, "time"]


def draw_chances(
    key: PRNGKey, num_tokens: int, num_samples: int, never: tuple[int, ...] = (), tables: Any = None
) -> Chances:
    """The random numbers of S continuations of N tokens; tables: what `prepare_draws` gave."""
    if tables is not None:
        return jax.random.split(key, num_tokens)
    # All at once, before the loop: many small draws inside cost as much as a small model.
    keys = [key, jax.random.fold_in(key, 1)] if never else [key]
    return tuple(jax.random.uniform(each, (num_tokens, num_samples, 1)) for each in keys)


def _draw_next(model, params, tables, carry, chances, decoding, never) -> tuple[Carry, Element, Array]:
    """The carry after one token more of each row, the tokens, and their log-probabilities."""
    if tables is not None:
        return model.draw(params, tables, carry, chances, never)
    log_probs = model.readout(params, carry)
    tokens = choose(chances, log_probs, decoding, never)
    return model.update(params, carry, tokens), tokens, gather_log_probs(log_probs, tokens)


@program(static_argnums=(1, 5, 6, 7, 8))
def sample(key, model, params, tables, prompt, num_samples, num_tokens, decoding, never):
    """The program of `sample_streams`, with its arguments, and what `prepare_draws` gave."""

    def step(carry, chances):
        carry, *drawn = _draw_next(model, params, tables, carry, chances, decoding, never)
        return carry, drawn

    carry = repeat_carry(warm_up(model, params, prompt), num_samples)
    _, drawn = lax.scan(step, carry, draw_chances(key, num_tokens, num_samples, never, tables))
    return Samples(drawn[0].T, drawn[1].T)


def sample_streams(
    key: PRNGKey,
    model: Model,
    params: Params,
    prompt: Tokens,
    *,
    num_samples: int,
    num_tokens: int,
    decoding: Decoding = Decoding(),
    never: tuple[int, ...] = (),
) -> Samples:
    """Draw S continuations of N tokens of a prompt (T,), T >= 0, in one jitted scan.

    Token t + 1 is drawn by `sampling.choose` from the model's distribution after token t; by a
    `contract.Drawable` of MANY symbols, such as counts of words, itself, if the temperature is 1 and nothing
    is truncated. The same key gives the same tokens on the same device, and in the two ways different ones.
    never: tokens that are not drawn where anything else is possible, such as `Vocab.unknown_ids`; in the
    first way, samples in which none of them would have been are the same. Raises ValueError for a decoding or
    counts out of range.
    """
    check_decoding(decoding)
    check_lengths(num_samples, num_tokens)
    prompt = jnp.asarray(prompt, jnp.int32)
    tables = prepare_draws(model, params, decoding)
    return sample(key, model, params, tables, prompt, num_samples, num_tokens, decoding, never)


PIECE = 1024  # the most tokens that one call of `draw_piece` draws, or `read_piece` reads


class Piece(NamedTuple):
    """The next tokens of one stream: the first of PIECE places are drawn, the rest hold nothing.

    carry: that has seen the tokens drawn, batch 1. log_probs: as in `Samples`.
    """

    carry: Carry
    tokens: Int[Array, "time"]
    log_probs: Float[Array, "time"]


@partial(jax.jit, static_argnums=(0, 7, 8))
def draw_piece(
    model: Model,
    params: Params,
    tables: Any,
    carry: Carry,
    chances: Chances,
    begin: Int[ArrayLike, ""],
    number: Int[ArrayLike, ""],
    decoding: Decoding = Decoding(),
    never: tuple[int, ...] = (),
) -> Piece:
    """Tokens begin ... begin + number - 1 of a continuation, number <= PIECE, after a carry of batch 1.

    With tables of `prepare_draws` and `draw_chances(key, num_tokens, 1, never, tables)` the pieces of a
    stream, one after the other, are what `sample_streams` draws with that key. Where a piece ends is no part
    of the program: one serves all.
    """

    def step(i, state):
        carry, tokens, log_probs = state
        chance = jax.tree.map(lambda each: each[begin + i], chances)
        carry, token, log_prob = _draw_next(model, params, tables, carry, chance, decoding, never)
        return carry, tokens.at[i].set(token[0]), log_probs.at[i].set(log_prob[0])

    nothing = jnp.zeros(PIECE, jnp.int32), jnp.zeros(PIECE)
    return Piece(*lax.fori_loop(0, number, step, (carry, *nothing)))


@partial(jax.jit, static_argnums=0)
def read_piece(
    model: Model, params: Params, carry: Carry, tokens: Int[Array, "time"], number: Int[ArrayLike, ""]
) -> Carry:
    """The carry, batch 1, after the first `number` of tokens (PIECE,), read one by one: for any number."""

    def step(i, carry):
        return model.update(params, carry, tokens[i][None])

    return lax.fori_loop(0, number, step, carry)


def generate(
    key: PRNGKey,
    model: Model,
    params: Params,
    prompt: Tokens,
    *,
    num_tokens: int,
    decoding: Decoding = Decoding(),
    never: tuple[int, ...] = (),
) -> Int[Array, "num_tokens"]:
    """One continuation of N tokens of a prompt (T,): `sample_streams` with one stream."""
    return sample_streams(
        key, model, params, prompt, num_samples=1, num_tokens=num_tokens, decoding=decoding, never=never
    ).tokens[0]


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _beam(model, params, prompt, beam_size, num_tokens, never):
    def step(state, _):
        carry, total, history, log_probs, t = state
        extended = total[:, None] + without(model.readout(params, carry), never)
        vocab_size = extended.shape[1]
        best, choice = lax.top_k(extended.reshape(-1), beam_size)
        parent, token = choice // vocab_size, (choice % vocab_size).astype(jnp.int32)
        carry = jax.tree.map(lambda leaf: leaf[parent], carry)
        history = history[parent].at[:, t].set(token)
        # -inf - -inf: a beam that holds nothing yet has no increment to speak of.
        gain = jnp.where(jnp.isfinite(best), best - total[parent], -jnp.inf)
        log_probs = log_probs[parent].at[:, t].set(gain)
        return (model.update(params, carry, token), best, history, log_probs, t + 1), None

    carry = repeat_carry(warm_up(model, params, prompt), beam_size)
    # All beams start equal: only the first may be extended, or the beam would hold copies.
    total = jnp.where(jnp.arange(beam_size) == 0, 0.0, -jnp.inf)
    history = jnp.zeros((beam_size, num_tokens), jnp.int32)
    state = (carry, total, history, jnp.zeros((beam_size, num_tokens)), 0)
    (_, _, history, log_probs, _), _ = lax.scan(step, state, None, length=num_tokens)
    return Samples(history, log_probs)


def beam_search(
    model: Model,
    params: Params,
    prompt: Tokens,
    *,
    beam_size: int,
    num_tokens: int,
    never: tuple[int, ...] = (),
) -> Samples:
    """The `beam_size` likeliest continuations of N tokens found, best first.

    Keeps the beam_size prefixes of highest log P(prefix | prompt) at each length; with beam_size of
    V^(N-1) or more nothing that matters is cut and the first is the exhaustive best. never: tokens that no
    continuation has. Where fewer continuations exist than the beam holds, the surplus has log-probability
    -inf. Raises ValueError for counts out of range.
    """
    at_least(1, MOST_DRAWS, beam_size=beam_size, num_tokens=num_tokens)
    return _beam(model, params, jnp.asarray(prompt, jnp.int32), beam_size, num_tokens, never)
