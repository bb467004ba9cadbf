"""The recurrent cells, one value each, and the list of all that a config can name."""

from lmseq.recurrence.cells.cell import Cell
from lmseq.recurrence.cells.gru import GRU
from lmseq.recurrence.cells.lstm import LSTM
from lmseq.recurrence.cells.minimal import MINGRU, MINLSTM, RGLRU
from lmseq.recurrence.cells.rnn import RNN

CELLS: tuple[Cell, ...] = (RNN, GRU, LSTM, MINGRU, MINLSTM, RGLRU)  # as `CellKind` of lmseq/config/kinds.py


def cell_named(name: str) -> Cell:
    """The cell of that name. Raises ValueError, with the names that there are, for any other."""
    for cell in CELLS:
        if cell.name == name:
            return cell
    raise ValueError(f"expected a cell of {', '.join(cell.name for cell in CELLS)}, got {name!r}")
