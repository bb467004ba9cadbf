"""Run the Python of the pages, and write the outputs and pictures that stand below it.

    python -m docs.tools.snippets                                    # every page, and README.md
    python -m docs.tools.snippets docs/guides/add_cell.md            # one page

All ```python blocks of a page run in one namespace, in order, in an empty folder, as a reader would run them.
A ```text block right below one is what it prints. Every .png that the page wrote goes to docs/pictures/.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PICTURES = DOCS / "pictures"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.M | re.S)
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")


class Ran(NamedTuple):
    """What a page's blocks printed, one string a block, and the pictures that they wrote."""

    outputs: list[str]
    pictures: list[Path]


def pages() -> list[Path]:
    """README.md and every page that stands in the repository."""
    inside = (path for path in DOCS.rglob("*.md") if "templates" not in path.parts)
    return [ROOT / "README.md", *sorted(inside)]


def blocks(text: str) -> list[tuple[str, str | None]]:
    """The code of each block of a page, and the output that the page shows below it, if any."""
    return [(found["code"], found["output"]) for found in BLOCK.finditer(text)]


def run(text: str, folder: Path, name: str = "page") -> Ran:
    """Run the blocks of a page in `folder`. An error of theirs names the page and the block's place."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    outputs = []
    with inside(folder):
        for found in BLOCK.finditer(text):
            line = text[: found.start("code")].count("\n")
            code = compile("\n" * line + found["code"], name, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, namespace)
            outputs.append(printed.getvalue())
    return Ran(outputs, sorted(folder.glob("*.png")))


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """With `folder` as the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def with_outputs(text: str, outputs: list[str]) -> str:
    """The page with what its blocks printed below those that show an output."""
    left = iter(outputs)

    def replaced(found: re.Match) -> str:
        output = next(left)
        if found["output"] is None:
            return found[0]
        return f"```python\n{found['code']}```\n\n```text\n{output}```\n"

    return BLOCK.sub(replaced, text)


def same_output(shown: str, printed: str, tolerance: float = 0.1) -> bool:
    """Whether two outputs agree: words exactly, numbers to a share of their size, or to the last digit shown.

    Versions of JAX and processors round otherwise, and a training amplifies it.
    """
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(_near(*(float(number.replace(",", "")) for number in pair), tolerance) for pair in pairs)


def _near(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= max(tolerance * max(abs(a), abs(b)), 0.02)


def record(pages: list[Path], results: Path) -> None:
    """Run pages and write what they printed and drew, or the error of the first block that fails, as JSON."""
    found = {}
    for path in pages:
        with tempfile.TemporaryDirectory() as folder:
            try:
                ran = run(path.read_text(encoding="utf-8"), Path(folder), path.name)
                found[str(path)] = {
                    "outputs": ran.outputs,
                    "pictures": [picture.name for picture in ran.pictures],
                }
            except Exception:
                found[str(path)] = {"error": traceback.format_exc()}
    results.write_text(json.dumps(found), encoding="utf-8")


def rewrite(path: Path) -> None:
    """Run a page, and write its outputs into it and into its template, and its pictures beside the pages."""
    with tempfile.TemporaryDirectory() as folder:
        ran = run(path.read_text(encoding="utf-8"), Path(folder), path.name)
        PICTURES.mkdir(exist_ok=True)
        for picture in ran.pictures:
            shutil.copyfile(picture, PICTURES / picture.name)
    inside_docs = path.is_relative_to(DOCS)
    for target in (path, DOCS / "templates" / path.relative_to(DOCS if inside_docs else ROOT)):
        if target.exists():
            text = target.read_text(encoding="utf-8")
            target.write_text(with_outputs(text, ran.outputs), encoding="utf-8")


def main() -> None:
    """Run the pages that are named, or all, and write them anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="pages; default: all")
    parser.add_argument("--results", help="write outputs to this JSON file, and change no page")
    asked = parser.parse_args()
    named = [Path(name).resolve() for name in asked.pages] or pages()
    if asked.results:
        record(named, Path(asked.results).resolve())
        return
    for path in named:
        if blocks(path.read_text(encoding="utf-8")):
            print(path.relative_to(ROOT), flush=True)
            rewrite(path)


if __name__ == "__main__":
    main()
