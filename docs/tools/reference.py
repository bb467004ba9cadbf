"""The public names of the library, found by reading its sources: no list is kept by hand."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "lmseq"


class Module(NamedTuple):
    """A public module: its dotted name, its file, and the first line of its docstring."""

    name: str
    path: Path
    summary: str


def public_modules(root: Path = ROOT) -> list[Module]:
    """The modules of the library that have code, by name. A package with a docstring alone is left out."""
    found = []
    for path in (root / PACKAGE).rglob("*.py"):
        tree = _parse(path)
        docstring = ast.get_docstring(tree) or ""
        if path.stem != "__init__" or len(tree.body) > 1:
            found.append(
                Module(dotted(path.relative_to(root)), path, docstring.split("\n\n")[0].replace("\n", " "))
            )
    return sorted(found)


def dotted(path: Path) -> str:
    """The name of the module that a file below the root holds."""
    words = path.with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def undocumented(path: Path) -> list[str]:
    """The public names of a file that have no docstring: the module, functions, classes and their methods."""
    tree = _parse(path)
    missing = [] if ast.get_docstring(tree) else ["the module"]
    return missing + [name for name, node in _definitions(tree) if not ast.get_docstring(node)]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _definitions(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes with their names, and the public methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, f"{prefix}{node.name}.")


def page_of(module: str) -> str:
    """The reference page of a module, below the docs folder."""
    return "reference/" + module.replace(".", "/") + ".md"


def pages() -> dict[str, str]:
    """Every page of the reference: its path below the docs folder, and its Markdown."""
    modules = public_modules()
    lines = ["# Reference", "", "One page a module, made of docstrings.", "", "| module | |", "|---|---|"]
    for module in modules:
        link = page_of(module.name).removeprefix("reference/")
        lines.append(f"| [`{module.name}`]({link}) | {module.summary.replace('|', chr(92) + '|')} |")
    found = {"reference/index.md": "\n".join(lines) + "\n"}
    for module in modules:
        found[page_of(module.name)] = f"# {module.name}\n\n::: {module.name}\n"
    return found


def navigation() -> list:
    """The part of the site's navigation that lists the reference, a group for each package."""
    groups: dict[str, list] = {}
    for module in public_modules():
        package = module.name.rpartition(".")[0]
        groups.setdefault(package, []).append({module.name.rpartition(".")[2]: page_of(module.name)})
    return ["reference/index.md", *({package: entries} for package, entries in groups.items())]
