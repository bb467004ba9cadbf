"""What a language model's training minimises beside the loss: penalties on its outputs, smoothed targets."""

from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmseq.config.regularisation import LossConfig
from lmseq.contract import Model, gather_log_probs
from lmseq.models.interface import Trace, has_hidden, token_trace
from lmseq.scoring import nll_totals
from lmseq.training.gradient import Losses, Objective, StepInfo
from lmseq.training.train_step import begin_windows, first_input_totals, window_loss
from lmseq.types import Batch, Carry, Params


@dataclass(frozen=True)
class RegularisedLoss:
    """`window_loss`, with a smoothed target and penalties in what is minimised; what is reported stays.

    With a label smoothing of e the target of a token has probability 1 - e, and e is spread evenly over the
    vocabulary (Szegedy et al. 2016): -(1 - e) log p(target) - e mean_v log p(v). Of the last layer's outputs
    h_1 ... h_T of a window, with dropout, a (activation_penalty) times mean h^2 is added, and without,
    b (temporal_penalty) times mean (h_{t+1} - h_t)^2 (Merity et al. 2017, 2018). These are means over the
    units and steps of a row; the mean over rows gives a row the weight of its targets, so that of rows of
    one length it is the mean of all, and sums add up over devices. The first token of a text, predicted from
    the initial carry, has no output to be penalised.

    Raises ValueError for a model without a hidden state.
    """

    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    label_smoothing: float = 0.0

    def __call__(self, model: Model, params: Params, carry: Carry, batch: Batch, step: StepInfo) -> Losses:
        """Sums over the rows, as objectives give them."""
        if not has_hidden(model):
            raise ValueError("penalties and label smoothing are for recurrent models and stacks of tokens")
        initial, carry = begin_windows(model, params, carry, batch, step)
        end, trace = token_trace(model, params, carry, batch.inputs, batch.targets, step.key)
        smoothed = nll_totals(trace.log_probs + self.label_smoothing * trace.spread, batch.mask)

        def first_log_probs(params: Params, initial: Carry) -> Float[Array, "batch"]:
            log_probs = model.readout(params, initial)
            first = gather_log_probs(log_probs, batch.inputs[:, 0])
            return first + self.label_smoothing * (jnp.mean(log_probs, axis=-1) - first)

        first = first_input_totals(first_log_probs, params, initial, batch, step)
        minimised = jax.tree.map(jnp.add, smoothed, first)

        counts = jnp.sum(batch.mask, axis=1) + (batch.mask[:, 0] & step.reset)
        penalty = jnp.sum(counts * self._penalties(trace, batch.mask))
        return Losses(
            minimised._replace(nll=minimised.nll + penalty), end, nll_totals(trace.log_probs, batch.mask)
        )

    def _penalties(self, trace: Trace, mask: Bool[Array, "batch time"]) -> Float[Array, "batch"]:
        """Each row's: a mean h^2 + b mean (h_{t+1} - h_t)^2, over steps whose targets count."""
        activation = _mean_square(trace.outputs, mask)
        changes = trace.raw[:, 1:] - trace.raw[:, :-1]
        temporal = _mean_square(changes, mask[:, 1:] & mask[:, :-1])
        return self.activation_penalty * activation + self.temporal_penalty * temporal


def _mean_square(
    outputs: Float[Array, "batch time hidden"], mask: Bool[Array, "batch time"]
) -> Float[Array, "batch"]:
    """Over the units of the steps where the mask holds; 0 where there are none."""
    squares = jnp.where(mask, jnp.mean(outputs * outputs, axis=-1), 0.0)
    return jnp.sum(squares, axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1)


def objective_of(config: LossConfig) -> Objective:
    """The objective that the config asks for; `window_loss` where it asks for nothing."""
    return window_loss if config == LossConfig() else RegularisedLoss(**asdict(config))
