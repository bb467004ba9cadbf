"""Write README.md and the pages that show measured figures, from their templates and the records.

    python -m docs.tools.figures          # write them
    python -m docs.tools.figures --check  # exit status 1 if one is not what this would write

A template (docs/templates/) is the page with `{{place:format}}` for each figure, `place` being the keys of a record
in benchmarks/results/ joined by dots, and `{{name}}` for what a function below writes: a table, or the output of a
command. Edit the template, never the page: a test compares them byte for byte.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TEMPLATES = ROOT / "docs" / "templates"
FIELD = re.compile(r"\{\{([\w.]+)(?::([^{}]+))?\}\}")
Row = tuple[Any, ...]


def records() -> dict[str, Any]:
    """Every record of a benchmark or of shown commands, by the name of its file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def templates() -> list[Path]:
    """The templates, by name."""
    return sorted(TEMPLATES.rglob("*.md"))


def target(template: Path) -> Path:
    """The page that a template makes."""
    name = template.relative_to(TEMPLATES)
    return ROOT / name if name == Path("README.md") else ROOT / "docs" / name


def render(text: str, found: dict[str, Any]) -> str:
    """A template with its fields filled in. Raises KeyError, with the field, for one that is in no record."""
    blocks = {block.__name__: block for block in BLOCKS}

    def fill(field: re.Match) -> str:
        place, how = field[1], field[2]
        if place in blocks:
            return blocks[place](found)
        return format(look_up(found, place), how or "")

    return FIELD.sub(fill, text)


def look_up(found: Any, place: str) -> Any:
    """What stands at `place`, keys joined by dots. Raises KeyError for a place that is not there."""
    for key in place.split("."):
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(f"no figure at {place}: nothing at {key!r}") from None
    return found


def table(header: Row, rows: list[Row]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    lines = ["| " + " | ".join(map(str, header)) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


# README


def models_of_the_demo(found: dict[str, Any]) -> str:
    """Counts, net and mixture on the test text of the demo: the one table of the README."""
    shown = found["shown"]
    demo, counts, mixed = (shown[name]["summary"] for name in ("demo", "counts", "mixed"))
    net_bytes, net_seconds = 4 * demo["num_parameters"], demo["wall_seconds"]
    rows = [
        (
            f"{counts['order']}-gram counts, modified Kneser-Ney",
            f"{counts['test_bits_per_char']:.3f}",
            f"{counts['num_bytes']:,}",
            f"{counts['wall_seconds']:.1f}",
        ),
        (
            f"recurrent net, {demo['model'].upper()}",
            f"{demo['test_bits_per_char']:.3f}",
            f"{net_bytes:,}",
            f"{net_seconds:.1f}",
        ),
        (
            "mixture of both",
            f"{mixed['test_bits_per_char']:.3f}",
            f"{counts['num_bytes'] + net_bytes:,}",
            f"{counts['wall_seconds'] + net_seconds + mixed['wall_seconds']:.1f}",
        ),
    ]
    return table(("model", "bits per character", "bytes", "seconds"), rows)


def quickstart_sample(found: dict[str, Any]) -> str:
    """What the quickstart printed."""
    return "\n".join(found["shown"]["quickstart"]["lines"])


# Outputs of commands


def _told(found: dict[str, Any], name: str, first: str, number: int) -> str:
    """`number` lines of what a command printed, from the one that begins with `first`."""
    lines = found["shown"][name]["told"]
    (start,) = [i for i, line in enumerate(lines) if line.startswith(first)][:1]
    return "\n".join(lines[start : start + number])


def demo_table(found: dict[str, Any]) -> str:
    """The table at the end of the demo, with the losses k steps ahead."""
    return _told(found, "demo", "validation", 6)


def scored(found: dict[str, Any]) -> str:
    """What score_text printed."""
    return "\n".join(found["shown"]["score"]["lines"])


def sampled(found: dict[str, Any]) -> str:
    """What sample_text printed."""
    return "\n".join(found["shown"]["sample"]["lines"])


BLOCKS: tuple[Callable[[dict[str, Any]], str], ...] = (
    models_of_the_demo,
    quickstart_sample,
    demo_table,
    scored,
    sampled,
)


def main() -> int:
    """Write the pages, or say which are not up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page is out of date")
    check, found, stale = parser.parse_args().check, records(), []
    for template in templates():
        page, text = target(template), render(template.read_text(encoding="utf-8"), found)
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(page.relative_to(ROOT)))
        if not check:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name} is not what its template gives: run make figures" if check else f"wrote {name}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
