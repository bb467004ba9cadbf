"""A token store made of a text, with a bar of the bytes that are read."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.text.loading import read_raw
from lmseq.config.text import TextConfig
from lmseq.data.corpora import CORPORA
from lmseq.data.documents import find_source
from lmseq.data.store import is_store
from lmseq.data.store_writer import Begin, prepare_store, write_store


@contextmanager
def bytes_bar(total: int) -> Iterator[tuple[Begin, Callable[[int], None]]]:
    """A bar of bytes, on a terminal only; yields what begins it anew with a name, and what moves it."""
    with tqdm(total=total, unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as bar:

        def begin(what: str) -> None:
            bar.reset()
            bar.set_description(what)

        yield begin, bar.update


def prepare(
    out: Path, config: TextConfig, *, text_field: str = "text", end_documents: bool = False
) -> dict[str, Any]:
    """Make a store of what the config names, as `store_writer.prepare_store` does; what it says of itself."""
    if is_store(config.corpus):
        raise ValueError(f"{config.corpus} is a store already: train_lm --corpus={config.corpus} takes it")
    if config.corpus in CORPORA:
        if end_documents:
            raise ValueError(f"--end_documents does nothing: {config.corpus} is no collection of documents")
        parts = {part: text.encode() for part, text in read_raw(config.corpus).parts.items()}
        return write_store(
            out, config.corpus, {p: lambda data=data: [data] for p, data in parts.items()}, config
        )
    source = find_source(config.corpus)
    with bytes_bar(source.num_bytes()) as (begin, progress):
        return prepare_store(
            out,
            source,
            config,
            text_field=text_field,
            end_documents=end_documents,
            begin=begin,
            progress=progress,
        )
