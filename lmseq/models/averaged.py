"""Members of one model from different initial parameters, whose predictions are averaged.

Errors that members do not share cancel out (Hansen and Salamon 1990; Lakshminarayanan et al. 2017).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmseq.contract import Model, Predictions, StepModel, covariates_of, predict_directly
from lmseq.predictions import averaged
from lmseq.types import Carry, Covariates, Element, Elements, OfValues, Params, Prediction, PRNGKey


@dataclass(frozen=True)
class Averaged(StepModel):
    """The average of S members, each a model of values with parameters and a carry of its own.

    Parameters are the members', stacked: every leaf (S, ...). Of a carry it is (B, S, ...).
    has_spread: whether a member predicts its own spread, to which the members' disagreement is then added; of
    points it is a unit, and stays. To train members each by itself, take `training.objectives.by_member`.
    """

    model: Model
    num_members: int
    has_spread: bool = True

    @property
    def covariates(self) -> Covariates:
        """The members'."""
        return covariates_of(self.model)

    @property
    def memory(self) -> int | None:
        """The members'."""
        return getattr(self.model, "memory", None)

    def init(self, key: PRNGKey) -> Params:
        """Each member's from a key of its own."""
        return jax.vmap(self.model.init)(jax.random.split(key, self.num_members))

    def init_carry(self, params: Params, batch_size: int) -> Carry:
        """The members', (B, S, ...)."""
        return self._each(lambda params: self.model.init_carry(params, batch_size), out=1)(params)

    def update(self, params: Params, carry: Carry, x: Element) -> Carry:
        """Every member sees x."""
        return self._each(lambda params, carry: self.model.update(params, carry, x), out=1)(params, carry)

    def readout(self, params: Params, carry: Carry) -> Prediction:
        """The average of the members' predictions."""
        return self._average(self._each(self.model.readout, out=0)(params, carry))

    def carries(self, params: Params, carry: Carry, xs: Elements) -> Carry:
        """The members', (B, T, S, ...)."""
        return self._each(lambda params, carry: self.model.carries(params, carry, xs), out=2)(params, carry)

    def unroll(
        self,
        params: Params,
        carry: Carry,
        xs: Elements,
        *,
        training: bool = False,
        key: PRNGKey | None = None,
    ) -> tuple[Carry, Predictions]:
        """The average after each of xs (B, T); members have noise of their own."""

        def of_member(params: Params, carry: Carry, number: jax.Array) -> tuple[Carry, Predictions]:
            own = None if key is None else jax.random.fold_in(key, number)
            return self.model.unroll(params, carry, xs, training=training, key=own)

        each = jax.vmap(of_member, in_axes=(0, 1, 0), out_axes=(1, 0))
        carry, predictions = each(params, carry, jnp.arange(self.num_members))
        return carry, self._average(predictions)

    def _each(self, work: Callable[..., Any], out: int) -> Callable[..., Any]:
        """`work` of a member's parameters, and of its carry if given, for all of them."""

        def of_all(params: Params, *carry: Carry) -> Any:
            return jax.vmap(work, in_axes=(0, *(1 for _ in carry)), out_axes=out)(params, *carry)

        return of_all

    def _average(self, predictions: Predictions) -> Predictions:
        return averaged(predictions, has_spread=self.has_spread)


class DirectAveraged(Averaged):
    """The same of a model that predicts several steps at once."""

    def readout_direct(
        self, params: Params, carry: Carry, known: Float[Array, "batch lead covariate"] | None = None
    ) -> OfValues:
        """The next K values at once, (B, K, D), of covariates known L steps ahead."""

        def of_member(params: Params, carry: Carry) -> OfValues:
            return predict_directly(self.model, params, carry, known)

        return self._average(self._each(of_member, out=0)(params, carry))
