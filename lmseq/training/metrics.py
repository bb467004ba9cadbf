"""Records of a run: JSON lines, and the same for TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

from lmseq.files import to_json, write_text

TENSORBOARD = "tensorboard"  # the folder of a run with what TensorBoard shows


def read_records(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, up to `last_step` or the first line that is no record."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            break
        if last_step is None or record["step"] <= last_step:
            records.append(record)
    return records


class MetricsWriter:
    """Appends records to DIR/metrics.jsonl and, for TensorBoard, to DIR/tensorboard.

    Opened at `last_step`, it drops what an interrupted run recorded after the checkpoint that it goes
    on from, so that each step stands once.
    """

    def __init__(self, workdir: Path, last_step: int) -> None:
        # Protocol buffers are slow to import and nothing but this class needs them.
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        kept = read_records(self._path, last_step)
        write_text(self._path, "".join(to_json(record) + "\n" for record in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / TENSORBOARD), purge_step=last_step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One record: numbers and text; TensorBoard gets the numbers as scalars."""
        self._file.write(to_json({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                if math.isfinite(value):
                    self._board.add_scalar(name, value, step)
            else:
                self._board.add_text(name, str(value), step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()
