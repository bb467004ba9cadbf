"""Token stores of texts, made with a bar of the bytes that are read; those that are kept of long texts."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.frame.console import say
from experiments.frame.start import data_folders
from lmseq.config.text import TextConfig
from lmseq.data.corpora import CORPORA, SPLITS, split_files
from lmseq.data.documents import Source, find_source
from lmseq.data.store import SETTINGS, VERSION, is_store
from lmseq.data.store_writer import Begin, prepare_store, write_store
from lmseq.data.texts import has_parts, read_raw
from lmseq.files import cache_folder, to_json

LONG_TEXT = 1 << 26  # bytes: a text in memory takes many times its size


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
        data_dir, cache_dir = data_folders()
        raw = read_raw(config.corpus, data_dir=data_dir, cache_dir=cache_dir)
        parts = {part: [text.encode()] for part, text in raw.parts.items()}
        return write_store(
            out, raw.name, {part: lambda each=each: each for part, each in parts.items()}, config
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


def long_text(corpus: str) -> Source | None:
    """The files of a text that is too long to be held in memory; None of any other."""
    path = Path(corpus)
    if corpus in CORPORA or is_store(corpus):
        return None
    if has_parts(corpus):
        files = {split: (file,) for split, file in split_files(path).items()}
        source = Source(path.resolve().name, files)
    elif path.is_file():
        source = Source(path.name, {"all": (path,)})
    else:
        return None
    return source if source.num_bytes() > LONG_TEXT else None


def kept_store(text: TextConfig) -> Path | None:
    """The store of a long text, of its content and settings, in the user's cache folder; None of other texts.

    It is made where there is none yet, and where there cannot be one, that is said.
    """
    source = long_text(text.corpus)
    if source is None:
        return None
    settings = {name: getattr(text, name) for name in SETTINGS}
    key = hashlib.sha256(to_json({"name": source.name, "version": VERSION, **settings}).encode())
    for part in (part for part in ("all", *SPLITS) if part in source.parts):
        with source.parts[part][0].open("rb") as file:
            key.update(hashlib.file_digest(file, "sha256").digest())
    out = cache_folder() / "stores" / key.hexdigest()[:32]
    if is_store(out):
        return out
    say(f"{source.name}: {source.num_bytes():,} bytes of text; its tokens are kept in {out}")
    try:
        with bytes_bar(source.num_bytes()) as (begin, progress):
            prepare_store(out, source, text, begin=begin, progress=progress)
    except OSError as error:
        say(f"they cannot be kept there ({error.strerror}): the text is read into memory")
        return None
    except ValueError:
        if not is_store(out):  # which another process made meanwhile
            raise
    return out
