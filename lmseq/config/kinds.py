"""The names of the recurrent cells, once for the configs of every kind of run.

A config knows a cell by its name alone; `lmseq.recurrence.cells` has the cells themselves.
"""

from typing import Literal

CellKind = Literal["rnn", "gru", "lstm", "mingru", "minlstm", "rglru"]
KERNEL_CELLS: tuple[CellKind, ...] = ("rnn", "gru", "lstm")  # those with weights inside the loop
COMPILED_CELLS: tuple[CellKind, ...] = ("rnn", "gru", "lstm")  # those with loops that `make native` compiles
CUDNN_CELLS: tuple[CellKind, ...] = ("lstm",)  # those that can run in cuDNN's kernel


def _in_words(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])


COMPILED_LAYERS = (*COMPILED_CELLS, "attention")
COMPILED, WITH_KERNEL = _in_words(COMPILED_LAYERS), _in_words(KERNEL_CELLS)
