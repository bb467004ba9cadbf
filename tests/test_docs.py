"""The README and the pages: their code runs, their commands exist, their figures are those of the records."""

import ast
import json
import re
import shlex
import subprocess
import sys
from functools import cache

import pytest

from docs.tools import figures, reference, snippets
from experiments.claims.page import page as claims_page
from tests.scripts import ROOT

PAGES = snippets.pages()
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
SAME = "docs/index.md"  # whose code is the README's
WITH_CODE = [name for name, text in TEXTS.items() if snippets.blocks(text) and name != SAME]
SHELL = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
SHORTER = {  # a page, what its code says, and what is run instead: the same calls, with fewer steps
    "README.md": ("num_train_steps=1000", "num_train_steps=60, steps_per_dispatch=20"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_code_that_is_for_a_file_can_be_read(name):
    """What is to be put into a file of the project is marked py: it does not run by itself."""
    for code in re.findall(r"^```py\n(.*?)^```", TEXTS[name], re.M | re.S):
        assert ast.parse(code).body


@pytest.fixture(scope="module")
def ran(tmp_path_factory, scripts):
    """What the code of each page did, run as a reader runs it: one process, one device, no type checks.

    Only XLA does not optimise it, which takes longer than to run it.
    """
    folder = tmp_path_factory.mktemp("pages")
    paths = {}
    for name in WITH_CODE:
        text = TEXTS[name]
        if name in SHORTER:
            assert text.count(SHORTER[name][0]) == 1
            text = text.replace(*SHORTER[name])
        paths[name] = folder / name.replace("/", "_")
        paths[name].write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "docs.tools.snippets", f"--results={folder / 'results.json'}"]
    done = scripts.execute([*command, *map(str, paths.values())], timeout=600)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {name: results[str(path)] for name, path in paths.items()}


@pytest.mark.timeout(600)  # the first of them waits for all pages
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(name, ran):
    assert "error" not in ran[name], ran[name]["error"]
    for (code, shown), printed in zip(snippets.blocks(TEXTS[name]), ran[name]["outputs"], strict=True):
        assert shown is None or snippets.same_output(shown, printed), f"{code}\nprints\n{printed}"
    drawn = set(ran[name]["pictures"])
    assert drawn <= {path.name for path in snippets.PICTURES.iterdir()}, "run make pictures"


def test_the_start_page_has_the_quickstart_of_the_readme():
    codes = [[code for code, _ in snippets.blocks(TEXTS[name])] for name in ("README.md", SAME)]
    assert codes[0] == codes[1] and len(codes[0]) == 1


def test_outputs_are_compared_word_by_word_and_number_by_number():
    assert snippets.same_output("loss 1.38 after 200 steps", "loss 1.41 after 200 steps")
    assert not snippets.same_output("loss 1.38", "loss 2.38")
    assert not snippets.same_output("loss 1.38", "gain 1.38")
    assert not snippets.same_output("(4, 20)", "(4, 30)")
    text = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    assert snippets.with_outputs(text, ["2\n"]) == text.replace("3", "2")


def test_an_error_names_the_page_and_the_line(tmp_path):
    with pytest.raises(ZeroDivisionError) as error:
        snippets.run("# A page\n\n```python\nx = 0\n1 / x\n```\n", tmp_path, "page.md")
    place = error.traceback[-1]
    assert (str(place.path).endswith("page.md"), place.lineno + 1) == (True, 5)


# Commands


def commands() -> list[tuple[str, str]]:
    """Every command line of every page, with the page."""
    found = []
    for name, text in TEXTS.items():
        for block in SHELL.findall(text):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name, line.strip()) for line in lines if line.strip()]
    return found


@cache
def help_of(module: str) -> str:
    """What a script says of its flags."""
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_every_command_of_the_pages_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seen = set()
    for page, line in commands():
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:.*##", makefile, re.M), f"{page}: no target {target}"
            case ["pip", "install", *what]:
                named = [word for word in what if word.endswith(".txt")]
                assert all((ROOT / word).exists() for word in named), f"{page}: {line}"
            case ["python", "-m", "pytest", *tests]:
                files = [test for test in tests if test.endswith(".py")]
                assert files and all((ROOT / test).exists() for test in files), f"{page}: {line}"
            case ["python", "-m", module, *flags]:
                check_flags(page, module, flags)
                seen.add(module)
            case _:
                pytest.fail(f"{page}: {line} is no command that is known here")
    assert {"experiments.train_lm", "experiments.ablate", "experiments.mix_models"} <= seen


def check_flags(page: str, module: str, flags: list[str]) -> None:
    """The module is there and its help lists every flag; of one claim run by its name, that claim's help."""
    claim = next((flag.removeprefix("--name=") for flag in flags if flag.startswith("--name=")), None)
    if claim:
        module, flags = f"{module}.{claim}", [flag for flag in flags if not flag.startswith("--name=")]
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page}: no module {module}"
    shown = help_of(module)
    for flag in flags:
        name = flag.removeprefix("--").partition("=")[0]
        assert flag.startswith("--") and re.search(rf"--(\[no\])?{name}\b", shown), (
            f"{page}: {module} has no {flag}"
        )


def test_scripts_that_are_named_are_there():
    """In running text too: `python -m experiments.x`, and every link to a file of the project."""
    for page, text in TEXTS.items():
        for module in re.findall(r"python -m ((?:experiments|benchmarks|docs)[\w.]*\w)", text):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page}: {module}"
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if not link.startswith("http") and "reference/" not in link:
                assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


# Figures


def test_the_pages_are_what_their_templates_give():
    found = figures.records()
    for template in figures.templates():
        page = figures.target(template)
        given = figures.render(template.read_text(encoding="utf-8"), found)
        assert page.read_text(encoding="utf-8") == given, f"{page.name} was edited by hand: run make figures"


def test_the_page_of_claims_is_what_its_record_gives():
    record = json.loads((ROOT / "docs" / "claims.json").read_text(encoding="utf-8"))
    assert claims_page(record["found"], record["commands"]) == TEXTS["docs/claims.md"]


def test_a_figure_that_no_record_has_is_named():
    with pytest.raises(KeyError, match=r"demo\.summary\.lost"):
        figures.render("{{demo.summary.lost:.2f}}", {"demo": {"summary": {}}})
    assert figures.render("{{a.b:.1f}} and {{a.c.0}}", {"a": {"b": 1.25, "c": [3]}}) == "1.2 and 3"


MEASURED = re.compile(r"(?<![\w.])\d+\.\d+(?!\.?\d)")
NOT_MEASURED = re.compile(r"Python 3\.\d+|jax 0\.\d+|ln 2 = 0\.69\d?|-?2\.0")


def test_measured_figures_are_not_written_by_hand():
    """Outside of code and outputs, a decimal fraction comes from a record or is a version or a constant."""
    rendered = {str(figures.target(template).relative_to(ROOT)) for template in figures.templates()}
    texts = {name: text for name, text in TEXTS.items() if name not in {*rendered, "docs/claims.md"}}
    for template in figures.templates():
        texts[str(template.relative_to(ROOT))] = template.read_text(encoding="utf-8")
    for name, text in texts.items():
        prose = re.sub(r"^```.*?^```|^    .*?$|`[^`]*`", "", text, flags=re.M | re.S)
        assert not MEASURED.findall(NOT_MEASURED.sub("", prose)), name


def test_every_picture_is_there_and_drawn_by_the_project():
    shown = set()
    for page, text in TEXTS.items():
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            path = (ROOT / page).parent.joinpath(link).resolve()
            assert path.exists(), f"{page}: {link}"
            shown.add(path)
    kept = {path.resolve() for path in snippets.PICTURES.iterdir()}
    assert kept <= shown, f"no page shows {sorted(path.name for path in kept - shown)}"


# The site


def test_every_public_name_of_the_library_has_a_docstring():
    modules = reference.public_modules()
    assert len(modules) > 40
    assert {module.name: found for module in modules if (found := reference.undocumented(module.path))} == {}


def test_a_name_without_a_docstring_is_found(tmp_path):
    path = tmp_path / "lmseq.py"
    path.write_text('"""A module."""\nclass A:\n    """A."""\n    def b(self): ...\n    def _c(self): ...\n')
    assert reference.undocumented(path) == ["A.b"]
    path.write_text("def f(): ...\n")
    assert reference.undocumented(path) == ["the module", "f"]


def test_every_module_has_a_page_and_a_place_in_the_navigation():
    pages, listed = reference.pages(), str(reference.navigation())
    files = {path for path in (ROOT / "lmseq").rglob("*.py") if len(ast.parse(path.read_text()).body) > 1}
    modules = {module.path for module in reference.public_modules()}
    assert files == modules
    for module in reference.public_modules():
        assert f"::: {module.name}\n" in pages[reference.page_of(module.name)]
        assert reference.page_of(module.name) in listed


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"\S+\.md", navigation))
    assert listed == {name.removeprefix("docs/") for name in TEXTS if name != "README.md"}


def test_the_readme_is_short_and_has_a_picture_near_its_top():
    lines = TEXTS["README.md"].splitlines()
    assert len(lines) <= 130
    assert any(line.startswith("| ![") or line.startswith("![") for line in lines[:25])
