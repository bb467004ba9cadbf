"""Making a token store of any amount of text, a piece at a time."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from lmseq.config.text import TextConfig
from lmseq.data.corpora import SPLITS, character_cuts, check_parts, count_characters
from lmseq.data.documents import Progress, Source, gathered, read_documents
from lmseq.data.encoding import Encoder, dtype_of, vocab_of
from lmseq.data.pieces import END, Pieces, Tally, deal_out, normalize_pieces
from lmseq.data.store import FACTS, SETTINGS, VERSION, VOCAB, SplitFacts
from lmseq.data.texts import refuse_fractions
from lmseq.data.tokens import Vocab
from lmseq.files import replacing_folder, to_json

Begin = Callable[[str], None]  # is told what is done with each pass over the text
Dealt = Iterator[tuple[str, bytes | None]]


def prepare_store(
    out: Path,
    source: Source,
    config: TextConfig,
    *,
    text_field: str = "text",
    end_documents: bool = False,
    begin: Begin = lambda what: None,
    progress: Progress = lambda num_bytes: None,
) -> dict[str, Any]:
    """Make a store of files; returns what is in its `store.json`.

    The ids and the vocabulary are those of `load_texts` of the same text. end_documents: each file, or line
    of JSON, ends with `<eos>`. begin(what) and progress(num_bytes) are told of each pass over the files. The
    text is never held, only its vocabulary. The folder is there whole or not at all. Raises ValueError as
    `find_source`, `read_documents`, `load_texts` and `replacing_folder` do.
    """

    def read(paths: tuple[Path, ...]) -> Pieces:
        return gathered(
            read_documents(paths, text_field=text_field, has_ends=end_documents, progress=progress)
        )

    if "all" not in source.parts:
        refuse_fractions(config, source.name)
    parts = {part: partial(read, paths) for part, paths in source.parts.items()}
    sources = [path.name for paths in source.parts.values() for path in paths]
    more = {"sources": sources[:100], "num_sources": len(sources), "end_documents": end_documents}
    return write_store(out, source.name, parts, config, has_ends=end_documents, more=more, begin=begin)


def write_store(
    out: Path,
    name: str,
    parts: Mapping[str, Callable[[], Pieces]],
    config: TextConfig,
    *,
    has_ends: bool = False,
    more: Mapping[str, Any] | None = None,
    begin: Begin = lambda what: None,
) -> dict[str, Any]:
    """Make a store of a text whose parts are functions that read it from its beginning: see `prepare_store`.

    parts: `all`, which is cut as the config says, or train, valid and test. Pieces hold whole characters.
    """
    with replacing_folder(out) as folder:
        deal = _dealer(parts, config, begin)
        if config.level != "byte":
            begin("vocabulary")
        train = (piece for _, piece in _while_train(deal()))
        vocab = vocab_of(train, config, has_ends=has_ends, name=f"the train part of {name}")
        begin("tokens")
        splits: dict[str, SplitFacts] = {}
        for split, dealt in groupby(deal(), key=itemgetter(0)):
            splits[split] = _write_split(folder, split, vocab, (piece for _, piece in dealt), name)
        for split in SPLITS:  # also those that nothing is in
            if split not in splits:
                splits[split] = _write_split(folder, split, vocab, (), name)
        if "all" in parts:
            sizes = {split: facts.characters for split, facts in splits.items()}
            check_parts(sizes, config.valid_fraction, config.test_fraction)
        facts = _facts(name, config, vocab, splits) | dict(more or {})
        (folder / VOCAB).write_text(vocab.to_json(), encoding="utf-8")
        (folder / FACTS).write_text(to_json(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def _facts(name: str, config: TextConfig, vocab: Vocab, splits: Mapping[str, SplitFacts]) -> dict[str, Any]:
    settings = asdict(config)
    return {
        "version": VERSION,
        "name": name,
        **{each: settings[each] for each in SETTINGS},
        "symbols": len(vocab),
        "dtype": dtype_of(vocab).name,
        "vocab_sha256": hashlib.sha256(vocab.to_json().encode()).hexdigest(),
        "splits": {split: splits[split]._asdict() for split in SPLITS},
    }


def _dealer(
    parts: Mapping[str, Callable[[], Pieces]], config: TextConfig, begin: Begin
) -> Callable[[], Dealt]:
    """A function that reads the normalised text from its beginning, in pieces with the split of each."""

    def read(part: str) -> Iterator[bytes | None]:
        return normalize_pieces(parts[part](), config.normalize)

    if "all" not in parts:
        return lambda: ((split, piece) for split in SPLITS for piece in read(split))
    begin("length")
    num_chars = sum(count_characters(piece) for piece in read("all") if piece is not END)
    cuts = character_cuts(num_chars, config.valid_fraction, config.test_fraction)
    return lambda: deal_out(read("all"), cuts, whole_words=config.level == "word")


def _while_train(dealt: Dealt) -> Dealt:
    for split, piece in dealt:
        if split != "train":
            return
        yield split, piece


def _write_split(folder: Path, split: str, vocab: Vocab, text: Pieces, name: str) -> SplitFacts:
    """Write the ids of a split."""
    tally, encoder, digest, num_tokens = Tally(text), Encoder(vocab), hashlib.sha256(), 0
    with (folder / f"{split}.bin").open("wb") as file:
        for ids in encoder.encode(tally, name=f"the {split} part of {name}"):
            file.write(data := ids.tobytes())
            digest.update(data)
            num_tokens += ids.size
    return SplitFacts(
        num_tokens,
        tally.num_chars,
        tally.num_bytes,
        encoder.num_unknown,
        encoder.num_marks,
        tally.sha256.hexdigest(),
        digest.hexdigest(),
    )
