"""Make a token store of any amount of text, so that a training on it begins at once.

    python -m experiments.prepare_text --corpus=mybook.txt --out=stores/mybook
    python -m experiments.prepare_text --corpus='dump/*.jsonl.gz' --end_documents --out=stores/dump
    python -m experiments.train_lm --corpus=stores/dump --workdir=runs/dump

The corpus is a file, a folder or a pattern of UTF-8 text, plain or packed (.gz, .bz2, .xz, .zst), or JSON
lines (.jsonl); several files are read in sorted order. It is read in pieces and never held. The last line is
a JSON object with `tokens`, `bytes_per_second` and `peak_memory`, in bytes.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.frame.command import Command, main
from experiments.frame.console import say
from experiments.frame.flags import Given
from experiments.frame.start import peak_memory, seconds
from lmseq.config.knobs import knob
from lmseq.config.text import TextConfig, check_text
from lmseq.data.corpora import SPLITS
from lmseq.files import to_json


@dataclass(frozen=True)
class PrepareOptions(TextConfig):
    """The text, how it is cut into tokens, and where they go."""

    corpus: str = knob(
        "python_docs",
        "a file, a folder or a pattern of UTF-8 texts, also packed or .jsonl; or a named corpus",
        is_path=True,
    )
    text_field: str = knob("text", "where the text is in an object of JSON lines")
    end_documents: bool = knob(False, "each file, or line of JSON, ends with <eos>")
    out: str = knob("", "folder of the store: created, and never replaced", is_path=True)


def act(options: PrepareOptions, given: Given) -> None:
    """Make the store, and say what is in it."""
    from experiments.text.preparing import prepare

    if not options.out:
        raise ValueError("expected --out=DIR, the folder that the store is written to")
    config = TextConfig(**{name: getattr(options, name) for name in TextConfig.__dataclass_fields__})
    check_text(config)
    begun = seconds()
    facts = prepare(
        Path(options.out), config, text_field=options.text_field, end_documents=options.end_documents
    )
    spent = seconds() - begun
    splits = facts["splits"]
    sizes = " / ".join(f"{splits[split]['tokens']:,}" for split in SPLITS)
    say(f"{options.out}: {sizes} tokens (train / valid / test), {facts['symbols']:,} symbols")
    num_bytes = sum(splits[split]["bytes"] for split in SPLITS)
    summary = {
        "out": options.out,
        "corpus": facts["name"],
        "level": config.level,
        "symbols": facts["symbols"],
        "dtype": facts["dtype"],
        "tokens": sum(splits[split]["tokens"] for split in SPLITS),
        "bytes": num_bytes,
        "seconds": spent,
        "bytes_per_second": num_bytes / spent,
        "peak_memory": peak_memory(),
    }
    print(to_json(summary), flush=True)


COMMAND = Command(__doc__, PrepareOptions, act)

if __name__ == "__main__":
    main(COMMAND)
