"""The names of the recurrent cells, once for the configs of every kind of run.

A config knows a cell by its name alone; `lmseq.recurrence.cells` has the cells themselves.
"""

from typing import Literal

CellKind = Literal["rnn", "gru", "lstm", "mingru", "minlstm", "rglru"]
COMPILED_CELLS: tuple[CellKind, ...] = ("rnn", "gru", "lstm")  # those that `make native` compiles loops for
CUDNN_CELLS: tuple[CellKind, ...] = ("lstm",)  # those that can run in cuDNN's kernel
COMPILED = " and ".join([", ".join(COMPILED_CELLS[:-1]), COMPILED_CELLS[-1]])  # in words
