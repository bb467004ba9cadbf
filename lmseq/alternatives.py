"""What a model thought likely in the place of each token of a text, beside what came."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from lmseq.contract import Model
from lmseq.types import Params, Tokens

MOST_ENTRIES = 2**22  # of the distributions that are held at once


class Alternatives(NamedTuple):
    """Of each token of a text: ln p of it, and the A likeliest tokens there, in their order, with theirs.

    log_probs: float32 (T,). ids: int32 (T, A). id_log_probs: float32 (T, A). In nats.
    """

    log_probs: Float[np.ndarray, "time"]
    ids: Int[np.ndarray, "time alternative"]
    id_log_probs: Float[np.ndarray, "time alternative"]


def alternatives(model: Model, params: Params, tokens: Tokens, vocab_size: int, count: int) -> Alternatives:
    """Read a text (T,) from its beginning, and keep what was likeliest at each token, the first included.

    count: how many, of a vocabulary of `vocab_size`. The log-probabilities are those of
    `scoring.score_stream`. Time and memory are linear in T, as everything is read in one strip: for texts of
    thousands of tokens. Raises ValueError for an empty text.
    """
    length = len(tokens)
    if not length:
        raise ValueError("expected at least one token, got an empty text")
    count = min(count, vocab_size)
    size = max(1, min(length, MOST_ENTRIES // vocab_size))
    padded = jnp.asarray(np.pad(np.asarray(tokens, np.int32), (0, -length % size)))
    found = Alternatives(*_read(model, params, padded.reshape(-1, size), count))
    return Alternatives(*(np.asarray(each).reshape(-1, *each.shape[2:])[:length] for each in found))


@partial(jax.jit, static_argnums=(0, 3))
def _read(model, params, pieces, count):
    """The program: `Alternatives` of pieces of a text, (pieces, size), each leaf with these in front."""

    def read(state, piece):
        carry, first = state
        carry, predictions = model.unroll(params, carry, piece[None])
        # Prediction t is of what comes after token t: that of the first token stands in the piece before.
        rows = jnp.concatenate([first[None], predictions[0]])
        likeliest, ids = lax.top_k(rows[:-1], count)
        came = jnp.take_along_axis(rows[:-1], piece[:, None], axis=1)[:, 0]
        return (carry, rows[-1]), (came, ids, likeliest)

    begin = model.init_carry(params, 1)
    return lax.scan(read, (begin, model.readout(params, begin)[0]), pieces)[1]
