"""What MkDocs asks while it builds the site: reference pages, and links from pages to the project's files."""

import re
import sys
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # MkDocs loads this file by its path

from docs.tools import reference

DOCS = reference.ROOT / "docs"
# [text](../lmseq/data/windows.py), as it is right where the page is read in the repository
OUTWARD = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_config(config):
    """Refuse undocumented names, and add the reference to the navigation."""
    missing = [
        f"{module.name}: {name}"
        for module in reference.public_modules()
        for name in reference.undocumented(module.path)
    ]
    if missing:
        raise PluginError(f"no docstring: {', '.join(missing)}")
    config["nav"].append({"Reference": reference.navigation()})
    return config


def on_files(files, config):
    """Add the pages of the reference, and one for each other file of the project that a page links to."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    linked = {
        outside(file.src_path, link[0])
        for file in files.documentation_pages()
        for link in OUTWARD.findall(file.content_string)
    }
    for path in sorted(linked - {None}):
        if not is_reference(path):
            files.append(File.generated(config, source_page(path), content=source(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the project become links to their pages of the site."""
    here = page.file.src_path

    def link(found: re.Match) -> str:
        path = outside(here, found[1])
        if path is None:
            return found[0]
        target = reference.page_of(reference.dotted(path)) if is_reference(path) else source_page(path)
        return f"]({'../' * here.count('/')}{target})"

    return OUTWARD.sub(link, markdown)


def outside(page: str, link: str) -> Path | None:
    """The file of the project, outside the docs folder, that a page links to; None if it is inside."""
    target = (DOCS / page).parent.joinpath(link).resolve()
    if target.is_relative_to(DOCS) or not target.is_relative_to(reference.ROOT):
        return None
    if not target.is_file():
        raise PluginError(f"{page} links to {link}, which does not exist")
    return target.relative_to(reference.ROOT)


def is_reference(path: Path) -> bool:
    """Whether a file has a page of the reference."""
    return path in {module.path.relative_to(reference.ROOT) for module in reference.public_modules()}


def source_page(path: Path) -> str:
    """The page of a file that is shown as it is."""
    return f"source/{path}.md"


def source(path: Path) -> str:
    """A file as a page."""
    kind = {".py": "python", ".md": "markdown", ".json": "json"}.get(path.suffix, "text")
    text = (reference.ROOT / path).read_text(encoding="utf-8").rstrip()
    return f"# {path}\n\n````{kind}\n{text}\n````\n"
