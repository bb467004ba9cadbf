"""From a config to a model under the contract."""

from lmseq.config import ModelConfig
from lmseq.contract import Model
from lmseq.models.interface import bind
from lmseq.models.mlp import MarkovLanguageModel
from lmseq.models.recurrent import RecurrentLanguageModel


def build_model(config: ModelConfig, vocab_size: int) -> Model:
    """The model that the config names, over a vocabulary of `vocab_size` symbols.

    Raises ValueError for a kind that does not exist.
    """
    match config.model:
        case "rnn" | "gru" | "lstm" | "mingru" | "minlstm":
            module = RecurrentLanguageModel(
                vocab_size=vocab_size,
                cell=config.model,
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                embedding_size=config.embedding_size,
                tie_embeddings=config.tie_embeddings,
                dropout=config.dropout,
                dropout_kind=config.dropout_kind,
            )
        case "mlp":
            module = MarkovLanguageModel(
                vocab_size=vocab_size,
                tau=config.tau,
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                embedding_size=config.embedding_size or MarkovLanguageModel.embedding_size,
                dropout=config.dropout,
            )
        case _:
            raise ValueError(f"expected model rnn, gru, lstm, mingru, minlstm or mlp, got {config.model!r}")
    return bind(module)
