"""One HTML file of a page: its data as JSON, and the script and the style that draw it.

Nothing of the data is markup: it stands escaped in a block that no browser runs, and the script makes text
of it. The policy in the head lets a browser run and load nothing but our own script and style.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from experiments.web.shortening import shorter
from lmseq.files import read_text, to_json, write_text

PARTS = Path(__file__).with_name("parts")
SCRIPTS = ("elements.js", "chart.js", "table.js", "text.js", "knowledge.js", "forecasts.js", "page.js")
MOST_BYTES = 2_000_000
PAGE = "page.html"  # in the folder of a run
FORMAT = 2  # of the data
OPENING = '<script type="application/json" id="data">'
CLOSING = "</script>"
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="lmseq">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page is drawn by a script within it: allow it to run.</noscript>
{opening}{data}{closing}
<script>{script}</script>
</body>
</html>
"""


def write_page(path: Path, data: dict[str, Any]) -> None:
    """Write a page, whole or not at all; texts and forecasts that make it too large are made shorter.

    data: what `page.js` draws, with a `title`; numbers that JSON has no words for are left out.
    """
    write_text(path, fitting(data))


def fitting(data: dict[str, Any]) -> str:
    """The page as text, of at most MOST_BYTES: of texts and forecasts as much as fits is shown.

    Tables and curves are shown whole. Where they leave less than a quarter of MOST_BYTES, texts and forecasts
    have this quarter all the same, and the page is larger.
    """
    text = page_of(data)
    if (size := _size(text)) <= MOST_BYTES:
        return text
    rest = _size(page_of(data | {"readings": [], "forecasts": [], "times": []}))
    room = max(MOST_BYTES - rest, MOST_BYTES // 4)
    while size - rest > room and (less := shorter(data, 0.9 * room / (size - rest))) is not None:
        data, text = less, page_of(less)
        size = _size(text)
    return text


def page_of(data: dict[str, Any]) -> str:
    """The page as text."""
    style, script = _part("page.css"), "".join(map(_part, SCRIPTS))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    return TEMPLATE.format(
        policy=policy,
        title=_escaped(data["title"]),
        style=style,
        opening=OPENING,
        data=_embedded({"format": FORMAT} | data),
        closing=CLOSING,
        script=script,
    )


def read_page(path: Path) -> dict[str, Any] | None:
    """The data of a page; None where there is no such file, or it is none of ours, or of another version."""
    if not path.is_file():
        return None
    try:
        _, found, rest = read_text(path).partition(OPENING)
        data = json.loads(rest.partition(CLOSING)[0]) if found else None
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and data.get("format") == FORMAT else None


def _embedded(data: Any) -> str:
    """JSON without a character that HTML gives a meaning to."""
    text = to_json(data)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _size(text: str) -> int:
    return len(text.encode())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
