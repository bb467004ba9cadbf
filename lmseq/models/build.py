"""From a config to a model under the contract."""

from typing import get_args

import jax

from lmseq.config.kinds import CellKind
from lmseq.config.language_model import ModelConfig, ModelKind
from lmseq.config.mixers import is_stack
from lmseq.config.regularisation import AS_DROPOUT
from lmseq.config.series import BASELINES, SeriesConfig, SeriesModelConfig, SeriesModelKind, num_direct
from lmseq.contract import Model
from lmseq.data.series import PreparedPanel, solves_exactly
from lmseq.mixers.named import blocks_of
from lmseq.models.averaged import Averaged, DirectAveraged
from lmseq.models.baselines import Drift, Mean, Persistence, SeasonalNaive
from lmseq.models.heads import SINGLE
from lmseq.models.interface import BoundModel, HiddenModule, SequenceModule, bind, bind_direct
from lmseq.models.linear import DirectLinearMap, LinearMap, fit_least_squares, fit_map
from lmseq.models.mlp import MarkovLanguageModel, MarkovSeriesModel
from lmseq.models.ngram_features import NgramFeatureModel
from lmseq.models.normalised import DirectNormalised, Normalised
from lmseq.models.recurrent import RecurrentLanguageModel
from lmseq.models.recurrent_series import RecurrentSeriesModel, WindowedRecurrentSeriesModel
from lmseq.models.stack import MixerLanguageModel, MixerSeriesModel
from lmseq.recurrence.cells import cell_named
from lmseq.recurrence.unrolled import Backend
from lmseq.types import NO_COVARIATES, Covariates, Params


def build_model(config: ModelConfig, vocab_size: int) -> Model:
    """The model that the config names, over a vocabulary of `vocab_size` symbols.

    Raises ValueError for a kind that does not exist, and for an ngram_order of one without a hidden state.
    """
    _check_candidates(config, vocab_size)
    module = _language_module(config, vocab_size)
    if config.ngram_order:
        if not isinstance(module, HiddenModule):
            raise ValueError(f"ngram_order needs a recurrent model or a stack, got model {config.model}")
        sizes = config.ngram_order, config.ngram_rows, config.ngram_size, config.ngram_dropout
        module = NgramFeatureModel(module, *sizes)
    return bind(module, config.init_range)


def _language_module(config: ModelConfig, vocab_size: int) -> SequenceModule:
    """The net itself; ValueError for a kind that does not exist."""
    common = {
        "sampled_softmax": config.sampled_softmax,
        "tie_embeddings": config.tie_embeddings,
        "embedding_dropout": config.embedding_dropout,
        "input_dropout": config.input_dropout,
        "dropout": config.dropout,
        "dropout_kind": config.dropout_kind,
        "precision": config.precision,
        "recompute_steps": config.recompute_steps,
    }
    match config.model:
        case name if is_stack(config, name):
            return MixerLanguageModel(
                vocab_size=vocab_size,
                blocks=blocks_of(config, name, config.hidden_size, config.num_layers, config.backend),
                hidden_size=config.hidden_size,
                **common,
            )
        case name if name in get_args(CellKind):
            output_dropout = None if config.output_dropout == AS_DROPOUT else config.output_dropout
            return RecurrentLanguageModel(
                vocab_size=vocab_size,
                cell=cell_named(name),
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                last_size=config.last_size,
                embedding_size=config.embedding_size,
                output_dropout=output_dropout,
                weight_drop=config.weight_drop,
                backend=config.backend,
                **common,
            )
        case "mlp" | "linear":
            return MarkovLanguageModel(
                vocab_size=vocab_size,
                tau=config.tau,
                hidden_size=config.hidden_size,
                num_layers=config.num_layers if config.model == "mlp" else 0,
                embedding_size=config.embedding_size or MarkovLanguageModel.embedding_size,
                dropout=config.dropout,
            )
        case _:
            raise ValueError(
                f"expected one of {', '.join(get_args(ModelKind))} as model, got {config.model!r}"
            )


def _check_candidates(config: ModelConfig, vocab_size: int) -> None:
    """ValueError for a softmax over as many words as there are."""
    if config.sampled_softmax >= vocab_size:
        raise ValueError(
            f"expected sampled_softmax below the {vocab_size} symbols there are, got {config.sampled_softmax}"
        )


def build_series_model(
    config: SeriesModelConfig,
    num_features: int,
    *,
    num_direct: int = 1,
    period: int = 0,
    covariates: Covariates = NO_COVARIATES,
    backend: Backend = "auto",
) -> Model:
    """The model of D values that the config names; `num_direct` steps ahead are predicted at once.

    covariates: what it reads beside them; baselines read nothing else. backend: of `unroll_layer`. Raises
    ValueError for a kind that does not exist, and for a seasonal forecast without a period.
    """
    values = {"num_features": num_features, "head": config.head, "num_direct": num_direct}
    sizes = (config.normalisation, config.tau, num_features, covariates)
    closed = config.model == "linear" and config.fit == "least_squares"
    match config.model:
        case name if is_stack(config, name):
            blocks = blocks_of(config, name, config.hidden_size, config.num_layers, backend)
            module = MixerSeriesModel(blocks=blocks, hidden_size=config.hidden_size, **values)
        case name if name in get_args(CellKind):
            values |= {"cell": cell_named(name), "hidden_size": config.hidden_size}
            values |= {"num_layers": config.num_layers, "backend": backend}
            if config.skip or covariates.total:
                # What is known of the next step must reach the head: a window of one element has it.
                tau = config.tau if config.skip else 1
                module = WindowedRecurrentSeriesModel(tau=tau, covariates=covariates, **values)
            else:
                module = RecurrentSeriesModel(**values)
        case "mlp" | "linear":
            module = MarkovSeriesModel(
                tau=config.tau,
                hidden_size=config.hidden_size,
                num_layers=config.num_layers if config.model == "mlp" else 0,
                activation=config.activation,
                residual=config.residual,
                skip=config.skip and config.model == "mlp",
                covariates=covariates,
                is_shared=not closed,
                **values,
            )
        case _:
            return _baseline(config.model, num_features, period)
    if closed:
        return (DirectLinearMap if num_direct > 1 else LinearMap)(_bound(module, num_direct), *sizes)
    model: Model = _bound(module, num_direct)
    if config.normalisation != "none":
        model = (DirectNormalised if num_direct > 1 else Normalised)(model, *sizes)
    if config.ensemble > 1:
        kind = DirectAveraged if num_direct > 1 else Averaged
        return kind(model, config.ensemble, has_spread=config.head not in SINGLE)
    return model


def _baseline(kind: str, num_features: int, period: int) -> Model:
    """A model with nothing to fit."""
    match kind:
        case "mean":
            return Mean(num_features)
        case "persistence":
            return Persistence(num_features)
        case "drift":
            return Drift(num_features)
        case "seasonal":
            if period < 1:
                raise ValueError("the seasonal forecast needs a period: give --period")
            return SeasonalNaive(num_features, period)
        case _:
            kinds = ", ".join(get_args(SeriesModelKind))
            raise ValueError(f"expected one of {kinds} as model, got {kind!r}")


def _bound(module: SequenceModule, num_direct: int) -> BoundModel:
    return bind_direct(module) if num_direct > 1 else bind(module)


def model_of(config: SeriesConfig, prepared: PreparedPanel, backend: Backend = "auto") -> Model:
    """The model that the config names, for the variables and the season that the series have.

    backend: of `unroll_layer`. Raises ValueError as `build_series_model` does.
    """
    return build_series_model(
        config.model,
        prepared.num_features,
        num_direct=num_direct(config),
        period=prepared.period,
        covariates=prepared.covariates,
        backend=backend,
    )


def fit_at_once(config: SeriesConfig, prepared: PreparedPanel, model: Model) -> Params:
    """Parameters of a model that needs no steps: those of least squares for `linear`, a baseline's own.

    model: what `model_of` makes of the same config. Raises ValueError as `fit_least_squares` and `fit_map`.
    """
    chosen, members = config.model, prepared.members
    if chosen.model in BASELINES:
        return model.init(jax.random.key(0))
    if solves_exactly(config, len(members)):
        return fit_least_squares(prepared.train, chosen.tau, chosen.head, num_direct(config))
    windows = (chosen.tau, num_direct(config), chosen.normalisation)
    return fit_map(members, *windows, chosen.ridge, refit=chosen.refit, head=chosen.head)
