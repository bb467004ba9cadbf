"""The knobs of mixers, for the tests that no knob is dead and that what nothing reads is refused.

Runs on texts and on series have the same ones.
"""

import dataclasses

HEADS = {"hidden_size": 6, "num_heads": 3}


def seen(parameters_of, prediction_of, program_of) -> dict:
    """Of each knob what is seen, the settings beside it, and values that each give something else."""

    def in_both_kinds(config):
        """What auto means differs between a cell and other mixers."""
        chosen = [dataclasses.replace(config.model, model=kind) for kind in ("gru", "attention")]
        return [parameters_of(dataclasses.replace(config, model=model)) for model in chosen]

    def beside(model: str, **more):
        return {**HEADS, "model": model, **more}

    return {
        "layers": (parameters_of, beside("stack"), ("gru", "attention,gru", "gru,attention", "gru*2")),
        "block": (in_both_kinds, HEADS, ("auto", "plain", "residual")),
        "feed_forward": (parameters_of, beside("attention"), ("gelu", "gated")),
        "num_heads": (prediction_of, beside("attention"), (3, 1)),
        "num_key_heads": (parameters_of, beside("attention"), (0, 1)),
        "window": (prediction_of, beside("attention"), (64, 2, 1)),
        "key_size": (parameters_of, beside("gla"), (0, 3)),
        "value_size": (parameters_of, beside("gla"), (0, 3)),
        "decay": (prediction_of, beside("matrix"), ("none", "fixed", "scalar", "vector")),
        "delta_rule": (prediction_of, beside("matrix"), (False, True)),
        "max_strength": (prediction_of, beside("deltanet"), (1.0, 2.0)),
        "convolution": (parameters_of, beside("deltanet"), (-1, 0, 3)),
        "chunk": (program_of, beside("linear_attention"), (2, 4)),
    }


BAD = [  # and what is complained of
    ({"num_heads": 0}, "num_heads of at least 1, got 0"),
    ({"window": 0}, "window of at least 1, got 0"),
    *(({name: -1}, f"{name} of at least 0, got -1") for name in ("num_key_heads", "key_size", "value_size")),
    ({"model": "attention", "num_key_heads": 3}, "num_key_heads to divide num_heads, got 3 and 4"),
    ({"layers": "gru,attention", "num_key_heads": 8}, "num_key_heads to divide num_heads, got 8 and 4"),
    ({"convolution": -2}, "convolution of at least -1, got -2"),
    *(({"chunk": size, "model": "gla"}, f"chunk to be a power of two, got {size}") for size in (0, 48)),
    *(
        ({"max_strength": most, "model": "deltanet"}, f"max_strength above 0 and at most 2, got {most}")
        for most in (2.5, 0.0)
    ),
    ({"layers": "gru,transformer"}, "layers of rnn, .*gated_deltanet, got 'transformer'"),
    *(({"layers": text}, "layers such as gla.2,attention, got ") for text in (",", " ", "gru,,gla", "gla*0")),
    ({"layers": "gru*1001"}, "layers, got 1001"),
    ({"model": "stack"}, "model stack needs layers: give --layers"),
    ({"model": "lstm", "layers": "gla"}, "layers describe a whole stack, got model lstm too"),
    ({"model": "linear", "block": "residual"}, "is for cells and other mixers, got model linear"),
]
MISFITS = [  # which are found when the model is built
    *(
        ({"model": kind, "num_heads": 5, "hidden_size": 64}, "num_heads to divide hidden_size, got 5 .* 64")
        for kind in ("attention", "gla")
    ),
    ({"model": "attention", "hidden_size": 12}, "an even number of features a head, .*got 12 over 4 heads"),
]
IDLE = [  # the first is what nothing reads beside the others
    {"feed_forward": "gated", "model": "gru"},
    {"feed_forward": "gated", "model": "attention", "block": "plain"},
    *({name: 2, "model": kind} for name in ("num_heads", "window") for kind in ("gru", "mlp")),
    *({name: 2, "model": "gla"} for name in ("num_key_heads", "window")),
    *({name: 2, "model": "attention"} for name in ("key_size", "value_size", "convolution", "chunk")),
    *({name: 2, "layers": "gru,attention"} for name in ("key_size", "value_size", "convolution", "chunk")),
    {"decay": "vector", "model": "gla"},
    {"delta_rule": True, "model": "deltanet"},
    *({"max_strength": 2.0, "model": kind} for kind in ("gla", "matrix", "gru")),
    {"num_layers": 3, "layers": "gla"},
]
FINE = [
    {"model": "attention", "num_heads": 8, "num_key_heads": 2, "window": 128, "feed_forward": "gated"},
    {"model": "matrix", "decay": "vector", "delta_rule": True, "max_strength": 2.0, "convolution": 4},
    {"model": "gru", "block": "residual"},
    {"model": "attention", "block": "plain"},
    {"model": "stack", "layers": "gla*2, attention", "num_heads": 3, "hidden_size": 66, "chunk": 16},
    {"model": "gla", "num_heads": 5, "hidden_size": 64, "key_size": 8, "value_size": 8},
]
