"""The glossary of tensor kinds, and the small tuples that travel between floors.

Dimensions are whole words in every annotation. Arrays are batch-major: (batch, time, feature).

Everywhere
    `batch` B rows computed in parallel; `time` T steps; `vocab` V symbols; `feature` D values of a step, or
    the width of a layer's input; `dims` any dimensions in front; `_` any one dimension.
Models
    `hidden` H units of a state; `gates` G H, all gates of a cell side by side; `window` the last tau
    elements; `period` steps of a season; `input` width of an element with its covariates, or of an embedded
    window; `out` width of a product's result; `rows` leading dimensions made one; `windows`, `target`
    windows of many series, and what follows one; `candidate` words that a softmax
    is over; `part` models of a mixture; `cached` C tokens of a cache; `segment` N tokens, of which a model
    that follows the text takes a step of gradient descent; `number` keys of the pieces of a window, or
    blocks of a long one, of `size` queries that see a `span` of tokens; `head` N of a mixer; `key`, `value`
    rows and columns of a matrix state; `chunk` pieces of C steps; `joined` a hidden state with the vectors of
    n-grams behind it.
Training
    `level` quantiles of a prediction; `evaluation` the latest of a training. `steps` optimiser steps of a
    dispatch, or time steps of a forecast.
Forecasts and samples
    `score`, `level` errors that were made before, and levels of their quantiles;
    `lead` steps ahead of which covariates are known; `covariate` columns of them;
    `origin` O places to predict from; `horizon` K steps ahead; `sample` S draws; `block` origins computed
    together; `num_steps`, `num_tokens` as the argument of that name; `test` points of the test part.
Texts that were read
    `alternative` A tokens that were likeliest in the place of one.
Pictures
    `value` numbers drawn along an axis; `place` positions of labels on it.
Counts
    `entry` n-grams of one order; `below` the entries one order lower, and one more for the end; `order`
    orders 1 ... N, or lags of an autoregression; `context` orders of a history, or contexts of a chain;
    `word`, `words` words of the tables.
Sources and texts
    `state` hidden states; `contexts` m dimensions of V, the tokens before; `tau` windows of 0, 1, ... tokens;
    `cls`, `number` classes and grammatical numbers of a grammar; `pair` pairs of its sentences; `bin` bins
    of probabilities; `bytes`, `points` bytes and code points.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key, PyTree

# One stream of token ids: int32 on the device, there or of a smaller kind on the host.
Tokens = Integer[Array | np.ndarray, "time"]
TokenBatch = Int[Array, "batch time"]
LogProbs = Float[Array, "batch vocab"]  # of the next token, natural logarithms, float32
TokenLogProbs = Float[Array, "batch time"]  # of the tokens, or log-densities of the values, that did come
# One element a row: a token id, or the D values of a series; and whole sequences and streams of either.
Element = Int[Array, "batch"] | Float[Array, "batch feature"]
Elements = Int[Array, "batch time"] | Float[Array, "batch time feature"]
Stream = Tokens | Float[Array | np.ndarray, "time feature"]
Params = PyTree  # what is learned
Carry = PyTree  # what a model remembers; every leaf has the batch axis first
PRNGKey = Key[Array, ""]


class Normal(NamedTuple):
    """A prediction of values: independent normal distributions, mean and scale (..., D), scale above 0.

    A point prediction is the mean with scale 1: its log-density is minus half the squared error, up to a
    constant.
    """

    mean: Float[Array, "*dims feature"]
    scale: Float[Array, "*dims feature"]


class StudentT(NamedTuple):
    """Independent Student's t-distributions (..., D): location, scale, degrees of freedom above 2.

    So the location is the mean, and the variance is finite.
    """

    mean: Float[Array, "*dims feature"]
    scale: Float[Array, "*dims feature"]
    freedom: Float[Array, "*dims feature"]


class Laplace(NamedTuple):
    """Independent Laplace distributions: median and scale (..., D), scale above 0.

    A prediction of the median alone has scale 1: its log-density is minus the absolute error, up to a
    constant.
    """

    mean: Float[Array, "*dims feature"]
    scale: Float[Array, "*dims feature"]


class NegativeBinomial(NamedTuple):
    """Independent negative binomial distributions of counts (..., D): mean and dispersion, both above 0.

    The variance is mean + dispersion * mean^2; without dispersion it would be a Poisson distribution.
    """

    mean: Float[Array, "*dims feature"]
    dispersion: Float[Array, "*dims feature"]


LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)  # of the quantiles that a head predicts; the middle one is the median


class Quantiles(NamedTuple):
    """The quantiles at LEVELS of each value, (..., D, 5), in increasing order."""

    values: Float[Array, "*dims feature level"]


class Covariates(NamedTuple):
    """How many columns stand behind the D values of a step: x is (B, D + known + past + static).

    known: of the time of the *next* value, so that they are read before it is predicted. past: of the value's
    own time; beyond an origin the last of them are repeated. static: the same at all times.
    """

    known: int = 0
    past: int = 0
    static: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


NO_COVARIATES = Covariates()


OfValues = Normal | StudentT | Laplace | NegativeBinomial | Quantiles  # a prediction of values
Prediction = LogProbs | OfValues  # of the next element, one a row


class Windows(NamedTuple):
    """Windows of a series and what follows each: features `(W, tau[, D])`, labels `(W[, horizon][, D])`."""

    features: Float[Array | np.ndarray, "..."]
    labels: Float[Array | np.ndarray, "..."]


class Batch(NamedTuple):
    """Windows cut out of a stream: `targets` are `inputs` shifted by one.

    The mask belongs to the targets: where it is False, the row has run out of text and neither
    the input nor the target of that step means anything.
    """

    inputs: Elements
    targets: Elements
    mask: Bool[Array, "batch time"]


class NllTotals(NamedTuple):
    """Negative log-likelihood in nats and the number of tokens it was summed over.

    Figures travel as sums and counts until the last line, so that means of unequal parts are exact.
    """

    nll: Float[Array, "..."]
    count: Int[Array, "..."]
