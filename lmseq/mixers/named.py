"""Mixers by the names that a config gives them, the published ones among them."""

from typing import Any

from lmseq.config.mixers import CELL_NAMES, MixerConfig, block_of, layer_names
from lmseq.mixers.block import Block
from lmseq.mixers.cell_layer import CellLayer
from lmseq.mixers.matrix_mixer import MatrixMixer
from lmseq.mixers.mixer import Mixer
from lmseq.mixers.self_attention import SelfAttention
from lmseq.recurrence.cells import cell_named
from lmseq.recurrence.unrolled import Backend

# What a name fixes of a matrix state. Katharopoulos et al. 2020, without its denominator; Sun et al. 2023,
# without its rotation of keys; Dao and Gu 2024, without its D x_t beside the state; Yang et al. 2024; Schlag
# et al. 2021; Yang et al. 2025.
PUBLISHED: dict[str, dict[str, Any]] = {
    "linear_attention": {"positive": True},
    "retnet": {"decay": "fixed"},
    "mamba2": {"decay": "scalar", "writes_step": True, "convolution": 4},
    "gla": {"decay": "vector"},
    "deltanet": {"delta_rule": True, "convolution": 4},
    "gated_deltanet": {"decay": "scalar", "delta_rule": True, "convolution": 4},
}


def mixer_named(name: str, config: MixerConfig, *, has_output: bool, backend: Backend) -> Mixer:
    """The mixer of that name, of the sizes that the config gives; the rest is of a recurrent cell."""
    if name in CELL_NAMES:
        return CellLayer(cell_named(name), has_output, backend)
    if name == "attention":
        return SelfAttention(config.num_heads, config.window, config.num_key_heads, backend)
    free = {"decay": config.decay, "delta_rule": config.delta_rule}
    settings = {"convolution": 0, **(free if name == "matrix" else PUBLISHED[name])}
    if config.convolution >= 0:
        settings["convolution"] = config.convolution
    sizes = (config.num_heads, config.key_size, config.value_size)
    return MatrixMixer(*sizes, max_strength=config.max_strength, chunk=config.chunk, **settings)


def blocks_of(
    config: MixerConfig, model: str, width: int, num_layers: int, backend: Backend = "auto"
) -> tuple[Block, ...]:
    """The layers of a stack of H = width features, from the bottom up.

    Raises ValueError for heads that do not fit the width, and for what `parse_layers` refuses.
    """
    names, kind = layer_names(config, model, num_layers), block_of(config, model)
    blocks = []
    for name in names:
        mixer = mixer_named(name, config, has_output=kind == "residual", backend=backend)
        mixer.check(width)
        blocks.append(Block(mixer, kind, config.feed_forward, len(names)))
    return tuple(blocks)
