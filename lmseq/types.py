"""The glossary of tensor kinds, and the small tuples that travel between floors.

Dimensions are whole words in every annotation: `batch` B rows computed in parallel, `time` T steps,
`vocab` V symbols, `feature` D input width, `hidden` H state width, `window` K or tau observations,
`sample` S draws, `layer` L stacked layers. Arrays are batch-major: (batch, time, feature).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

Tokens = Int[Array | np.ndarray, "time"]  # one stream of token ids, int32, on the device or the host
TokenBatch = Int[Array, "batch time"]
LogProbs = Float[Array, "batch vocab"]  # of the next token, natural logarithms, float32
TokenLogProbs = Float[Array, "batch time"]  # of the tokens that did come
Params = PyTree  # what is learned
Carry = PyTree  # what a model remembers; every leaf has the batch axis first
PRNGKey = Key[Array, ""]


class Batch(NamedTuple):
    """Windows cut out of a stream: `targets` are `inputs` shifted by one.

    The mask belongs to the targets: where it is False, the row has run out of text and neither
    the input nor the target of that step means anything.
    """

    inputs: Int[Array, "batch time"]
    targets: Int[Array, "batch time"]
    mask: Bool[Array, "batch time"]


class NllTotals(NamedTuple):
    """Negative log-likelihood in nats and the number of tokens it was summed over.

    Figures travel as sums and counts until the last line, so that means of unequal parts are exact.
    """

    nll: Float[Array, "..."]
    count: Int[Array, "..."]
