"""Files of a run: written whole or not at all, and read with one line for what is damaged."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: a reader sees the old file or the new, never half."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """A file of a run; ValueError, naming it, for one that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or choose another folder") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run; ValueError, naming it, for a damaged one."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or choose another folder") from None
