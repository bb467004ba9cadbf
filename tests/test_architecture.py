"""The project keeps to its floors: who may import whom, and what never appears under lmseq/."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A file imports only what comes before it here: lower floors, and files listed above it within its own floor.
# An `__init__.py` comes right after the last file of its folder, and `lmseq/__init__.py` after everything.
FLOORS = (
    (
        "lmseq/types.py",
        "lmseq/files.py",
        "lmseq/packing.py",
        "lmseq/compiled.py",
        "lmseq/config/kinds.py",
        "lmseq/config/knobs.py",
        "lmseq/config/text.py",
        "lmseq/config/training.py",
        "lmseq/config/mixers.py",
        "lmseq/config/regularisation.py",
        "lmseq/config/ngram_features.py",
        "lmseq/config/language_model.py",
        "lmseq/config/series.py",
        "lmseq/config/counts.py",
        "lmseq/config/mixture.py",
    ),
    (
        "lmseq/data/corpora.py",
        "lmseq/data/marks.py",
        "lmseq/data/tokens.py",
        "lmseq/data/pieces.py",
        "lmseq/data/numbering.py",
        "lmseq/data/documents.py",
        "lmseq/data/encoding.py",
        "lmseq/data/store.py",
        "lmseq/data/texts.py",
        "lmseq/data/store_writer.py",
        "lmseq/data/series_types.py",
        "lmseq/data/synthetic.py",
        "lmseq/data/frequencies.py",
        "lmseq/data/dates.py",
        "lmseq/data/tables.py",
        "lmseq/data/times.py",
        "lmseq/data/seasons.py",
        "lmseq/data/gaps.py",
        "lmseq/data/covariates.py",
        "lmseq/data/series_files.py",
        "lmseq/data/forms.py",
        "lmseq/data/panel.py",
        "lmseq/data/future_rows.py",
        "lmseq/data/permutation.py",
        "lmseq/data/partition.py",
        "lmseq/data/scaling.py",
        "lmseq/data/prepared.py",
        "lmseq/data/series.py",
        "lmseq/data/sources.py",
        "lmseq/data/windows.py",
        "lmseq/ngram/counts.py",
        "lmseq/ngram/words.py",
        "lmseq/ngram/spelling.py",
        "lmseq/ngram/corpus.py",
        "lmseq/ngram/backoff.py",
        "lmseq/ngram/native.py",
        "lmseq/ngram/queries.py",
        "lmseq/ngram/interpolation.py",
        "lmseq/ngram/smoothing.py",
        "lmseq/ngram/arpa_lines.py",
        "lmseq/ngram/arpa_routines.py",
        "lmseq/ngram/arpa_sections.py",
        "lmseq/ngram/arpa.py",
        "lmseq/ngram/storage.py",
    ),
    (
        "lmseq/recurrence/library.py",
        "lmseq/programs.py",
        "lmseq/noise.py",
        "lmseq/predictions.py",
        "lmseq/calibration.py",
        "lmseq/contract.py",
        "lmseq/portable.py",
        "lmseq/strips.py",
        "lmseq/scoring.py",
        "lmseq/alternatives.py",
        "lmseq/layers.py",
        "lmseq/recurrence/activations.py",
        "lmseq/recurrence/cells/cell.py",
        "lmseq/recurrence/cells/rnn.py",
        "lmseq/recurrence/cells/gru.py",
        "lmseq/recurrence/cells/lstm.py",
        "lmseq/recurrence/cells/minimal.py",
        "lmseq/recurrence/native.py",
        "lmseq/recurrence/derivative.py",
        "lmseq/recurrence/linear.py",
        "lmseq/recurrence/cudnn.py",
        "lmseq/recurrence/initial.py",
        "lmseq/recurrence/unrolled.py",
        "lmseq/mixers/mixer.py",
        "lmseq/mixers/attention.py",
        "lmseq/mixers/matrix_state.py",
        "lmseq/mixers/convolution.py",
        "lmseq/mixers/compiled_attention.py",
        "lmseq/mixers/self_attention.py",
        "lmseq/mixers/matrix_mixer.py",
        "lmseq/mixers/cell_layer.py",
        "lmseq/mixers/block.py",
        "lmseq/mixers/named.py",
        "lmseq/sampling.py",
    ),
    (
        "lmseq/models/interface.py",
        "lmseq/models/heads.py",
        "lmseq/models/shifting.py",
        "lmseq/models/mlp.py",
        "lmseq/models/pieces.py",
        "lmseq/models/noisy.py",
        "lmseq/models/candidates.py",
        "lmseq/models/recurrent.py",
        "lmseq/models/recurrent_series.py",
        "lmseq/models/stack.py",
        "lmseq/models/ngram_features.py",
        "lmseq/models/normalised.py",
        "lmseq/models/averaged.py",
        "lmseq/models/direct_map.py",
        "lmseq/models/linear.py",
        "lmseq/models/baselines.py",
        "lmseq/models/ngram_draws.py",
        "lmseq/models/ngram.py",
        "lmseq/models/ngram_alternatives.py",
        "lmseq/models/dynamic.py",
        "lmseq/models/mixture.py",
        "lmseq/models/following.py",
        "lmseq/models/sources.py",
        "lmseq/models/build.py",
    ),
    (
        "lmseq/training/state.py",
        "lmseq/training/validated.py",
        "lmseq/training/optimizer.py",
        "lmseq/training/sharding.py",
        "lmseq/training/gradient.py",
        "lmseq/training/train_step.py",
        "lmseq/training/regularised.py",
        "lmseq/training/objectives.py",
        "lmseq/training/metrics.py",
        "lmseq/training/processes.py",
        "lmseq/training/checkpoint.py",
        "lmseq/training/beginning.py",
        "lmseq/training/lengthening.py",
        "lmseq/training/feeding.py",
        "lmseq/training/loop.py",
        "lmseq/training/ensemble.py",
        "lmseq/training/memory.py",
        "lmseq/training/watch.py",
        "lmseq/training/job.py",
        "lmseq/training/folder.py",
        "lmseq/training/fit.py",
        "lmseq/rollout.py",
        "lmseq/reliability.py",
        "lmseq/panels.py",
        "lmseq/errors.py",
        "lmseq/accuracy.py",
        "lmseq/conformal.py",
        "lmseq/generation.py",
        "lmseq/labels.py",
        "lmseq/plotting.py",
        "lmseq/runs.py",
    ),
)
# A room of experiments/ imports the library, the rooms before it, and its own files, but never in a circle.
# The scripts stand in two rows: those that are experiments, and those that are made of experiments.
ROOMS = (
    ("experiments/__init__.py",),
    ("experiments/frame/",),
    ("experiments/web/",),
    ("experiments/text/",),
    ("experiments/counts/",),
    ("experiments/series/",),
    ("experiments/claims/",),
    ("experiments/accelerators/",),
    (
        "experiments/train_lm.py",
        "experiments/train_ngram.py",
        "experiments/predict_series.py",
        "experiments/forecast.py",
        "experiments/compare_objectives.py",
        "experiments/mix_models.py",
        "experiments/average.py",
        "experiments/prepare_text.py",
        "experiments/write_grammar.py",
        "experiments/score_text.py",
        "experiments/sample_text.py",
        "experiments/calibrate.py",
        "experiments/export.py",
        "experiments/native.py",
        "experiments/compile_for.py",
    ),
    ("experiments/ablation/",),
    ("experiments/ablate.py", "experiments/plot_runs.py", "experiments/page.py"),
)
MAY_NOT_IMPORT_TRAINING = (
    "lmseq/rollout.py",
    "lmseq/panels.py",
    "lmseq/accuracy.py",
    "lmseq/errors.py",
    "lmseq/generation.py",
)
ABOVE_THE_LIBRARY = {"experiments", "benchmarks", "tests"}

# Dotted names, each with all that is under it.
FORBIDDEN = {
    "absl.flags": "flags belong to experiments/",
    "os.environ": "the environment belongs to experiments/",
    "os.environb": "the environment belongs to experiments/",
    "os.getenv": "the environment belongs to experiments/",
    "os.putenv": "the environment belongs to experiments/",
    "sys.argv": "the command line belongs to experiments/",
    "sys.stdout": "the library is silent; lines belong to experiments/",
    "sys.stderr": "the library is silent; lines belong to experiments/",
    "tqdm": "the library is silent; bars belong to experiments/",
    "signal": "signals belong to experiments/",
    "importlib.import_module": "imports are statements, so that they can be checked",
}
FORBIDDEN_COMMENT = re.compile(r"#.*\b(noqa|type:\s*ignore)", re.IGNORECASE)


def ranked_files() -> dict[str, tuple[int, int]]:
    """Each file of the table with its (floor, row); an `__init__.py` has that of its folder's last file."""
    ranks = {file: (floor, row) for floor, files in enumerate(FLOORS) for row, file in enumerate(files)}
    packages: dict[str, tuple[int, int]] = {}
    for file, rank in ranks.items():
        init = str(Path(file).parent / "__init__.py")
        packages[init] = max(rank, packages.get(init, rank))
    return ranks | packages | {"lmseq/__init__.py": (len(FLOORS), 0)}


RANKS = ranked_files()


def module_file(dotted: str) -> str | None:
    """The file of the table that a dotted name lives in: its longest prefix that is a module or a package."""
    parts = dotted.split(".")
    for length in range(len(parts), 1, -1):
        stem = "/".join(parts[:length])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if file in RANKS:
                return file
    return None


def imported_names(file: str, tree: ast.Module) -> list[tuple[int, str, str]]:
    """Every import, wherever it stands, as (line, the name it binds, absolute dotted name)."""
    package = Path(file).with_suffix("").parts[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append((node.lineno, alias.asname or alias.name.split(".")[0], alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            for alias in node.names:
                found.append((node.lineno, alias.asname or alias.name, ".".join([*base, alias.name])))
    return found


def dotted_name(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """`o.environ` after `import os as o` is os.environ; None for what does not start at an imported name."""
    attributes = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return None
    return ".".join([aliases[node.id], *reversed(attributes)])


def is_under(dotted: str, name: str) -> bool:
    """Whether a dotted name is another or lies within it."""
    return dotted == name or dotted.startswith(name + ".")


def import_violations(file: str, line: int, dotted: str) -> list[str]:
    """What is wrong with one file's import of one dotted name."""
    where, top = f"{file}:{line}", dotted.split(".")[0]
    if top in ABOVE_THE_LIBRARY:
        return [f"{where}: imports {dotted}, which stands above the library"]
    if top == "flax" and not file.startswith("lmseq/models/"):
        return [f"{where}: imports {dotted}; only lmseq/models/ knows Flax"]
    if top != "lmseq":
        return []
    target = "lmseq/__init__.py" if dotted in ("lmseq", "lmseq.*") else module_file(dotted)
    if target is None:
        return [f"{where}: imports {dotted}, which is not in the table of floors"]
    if file in MAY_NOT_IMPORT_TRAINING and target.startswith("lmseq/training/"):
        return [f"{where}: imports {dotted}; {file} may not know of training"]
    if RANKS[target] < RANKS[file] or (file.endswith("__init__.py") and RANKS[target] == RANKS[file]):
        return []
    return [f"{where}: imports {dotted}, which does not come before it: {describe(target)}, {describe(file)}"]


def describe(file: str) -> str:
    """A file with its place in the table."""
    floor, row = RANKS[file]
    return f"{file} is on floor {floor}, row {row}"


def violations(file: str, source: str) -> list[str]:
    """Everything in one file of lmseq/ that the house rules out, a line each."""
    if Path(file).name == "utils.py":
        return [f"{file}: no file is called utils.py; name it by what it holds"]
    if file not in RANKS:
        return [f"{file}: not in the table of floors (FLOORS in tests/test_architecture.py): give it a place"]
    tree = ast.parse(source, filename=file)
    found = [] if ast.get_docstring(tree) else [f"{file}: has no module docstring"]

    imports = imported_names(file, tree)
    for line, _, dotted in imports:
        found += import_violations(file, line, dotted)

    # `import a.b` binds a, which stands for a; any other name stands for all that was imported.
    aliases = {name: name if is_under(dotted, name) else dotted for _, name, dotted in imports}
    used = [(line, dotted) for line, _, dotted in imports]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            used.append((node.lineno, dotted_name(node, aliases) or ""))
        elif isinstance(node, ast.Name) and node.id in ("print", "__import__"):
            found.append(f"{file}:{node.lineno}: uses {node.id}(); the library is silent and imports openly")
    forbidden = {(line, name) for line, dotted in used for name in FORBIDDEN if is_under(dotted, name)}
    found += [f"{file}:{line}: uses {name}; {FORBIDDEN[name]}" for line, name in sorted(forbidden)]

    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and FORBIDDEN_COMMENT.search(token.string):
            found.append(f"{file}:{token.start[0]}: silences a checker: {token.string}")
    return found


FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "lmseq").rglob("*.py"))


@pytest.mark.parametrize("file", FILES)
def test_file_keeps_to_the_house(file):
    found = violations(file, (ROOT / file).read_text(encoding="utf-8"))
    assert not found, "\n" + "\n".join(found)


def room_of(file: str) -> int | None:
    """The row of ROOMS that a file of experiments/ belongs to; None of one that has no room."""
    return next((row for row, starts in enumerate(ROOMS) if file.startswith(starts)), None)


def experiment_file(dotted: str, files: Collection[str]) -> str | None:
    """The file under experiments/ that a dotted name lives in."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        stem = "/".join(parts[:length])
        found = next((file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in files), None)
        if found:
            return found
    return None


def room_violations(sources: Mapping[str, str]) -> list[str]:
    """What is wrong with the imports among files of experiments/, of their sources by name."""
    found, arrows = [], {}
    for file, source in sources.items():
        if room_of(file) is None:
            found.append(f"{file}: has no room (ROOMS in tests/test_architecture.py): give it one")
            continue
        targets = {
            experiment_file(dotted, sources)
            for _, _, dotted in imported_names(file, ast.parse(source, filename=file))
            if dotted.split(".")[0] == "experiments"
        }
        arrows[file] = {target for target in targets if target and target != file}
        found += [
            f"{file}: imports {target}, of a room that does not come before it"
            for target in sorted(arrows[file])
            if room_of(target) > room_of(file) or (room_of(target) == room_of(file) and is_script(file))
        ]
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append(f"files that import each other: {' -> '.join(error.args[1])}")
    return found


def is_script(file: str) -> bool:
    """Whether a file stands directly in experiments/."""
    return file.count("/") == 1 and not file.endswith("__init__.py")


EXPERIMENT_SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "experiments").rglob("*.py"))
}


def test_the_rooms_of_experiments():
    found = room_violations(EXPERIMENT_SOURCES)
    assert not found, "\n" + "\n".join(found)


def test_a_listing_of_experiments_shows_scripts_alone():
    scripts = [file for file in EXPERIMENT_SOURCES if is_script(file)]
    assert scripts and all("__main__" in EXPERIMENT_SOURCES[file] for file in scripts)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"experiments/frame/start.py": "from experiments.text import report"}, "does not come before it"),
        ({"experiments/train_lm.py": "from experiments import score_text"}, "does not come before it"),
        ({"experiments/claims/size.py": "from experiments.ablation import design"}, "before it"),
        ({"experiments/helpers.py": ""}, "has no room"),
        (
            {
                "experiments/frame/start.py": "from experiments.frame import flags",
                "experiments/frame/flags.py": "from experiments.frame.start import seconds",
            },
            "import each other",
        ),
    ],
)
def test_catches_in_experiments(changed, complaint):
    found = room_violations(EXPERIMENT_SOURCES | changed)
    assert found and any(complaint in line for line in found)


def endings(names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of names of which one is the other with an ending: claim and claims, count and counted."""
    names = sorted(names)
    return [
        (left, right)
        for left in names
        for right in names
        if left != right and re.fullmatch(re.escape(left.removesuffix("e")) + r"(s|es|ed|ing)", right)
    ]


@pytest.mark.parametrize("folder", sorted({str(Path(file).parent) for file in [*EXPERIMENT_SOURCES, *FILES]}))
def test_names_of_a_folder_differ_by_more_than_an_ending(folder):
    assert endings(path.stem for path in (ROOT / folder).iterdir() if path.name != "__pycache__") == []


def test_endings_are_found():
    assert endings(["claim", "claims", "ablate", "ablating", "texts"]) == [
        ("ablate", "ablating"),
        ("claim", "claims"),
    ]


def test_there_are_files_to_check():
    assert "lmseq/types.py" in FILES
    assert len(set(sum(FLOORS, ()))) == sum(len(files) for files in FLOORS), "a file is in the table twice"


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("lmseq/config/knobs.py", "from lmseq.types import Batch"),
        ("lmseq/scoring.py", "import lmseq.contract"),
        ("lmseq/models/mlp.py", "import flax.linen as nn"),
        ("lmseq/models/mlp.py", "from lmseq.recurrence import cells"),
        ("lmseq/models/mlp.py", "from . import interface"),
        ("lmseq/models/mlp.py", "from ..types import Carry"),
        ("lmseq/models/__init__.py", "from lmseq.models.build import build"),
        ("lmseq/training/train_step.py", "from lmseq.training import state"),
        ("lmseq/training/loop.py", "import os\nos.replace('a', 'b')"),
        ("lmseq/generation.py", "from lmseq.scoring import score"),
        ("lmseq/generation.py", "from absl import logging"),
        ("lmseq/__init__.py", "from lmseq import generation"),
    ],
)
def test_lets_pass(file, statement):
    assert violations(file, f'"""A docstring."""\n{statement}\n') == []


@pytest.mark.parametrize(
    ("file", "statement", "complaint"),
    [
        ("lmseq/types.py", "from lmseq.config.language_model import ModelConfig", "does not come before it"),
        ("lmseq/types.py", "import lmseq.models.build as build", "does not come before it"),
        ("lmseq/types.py", "def f():\n    from lmseq import generation", "does not come before it"),
        ("lmseq/types.py", "from .data.text import Vocab", "does not come before it"),
        ("lmseq/contract.py", "from lmseq import *", "does not come before it"),
        ("lmseq/contract.py", "import lmseq", "does not come before it"),
        ("lmseq/contract.py", "import lmseq.contract", "does not come before it"),
        ("lmseq/data/tokens.py", "from lmseq import data", "does not come before it"),
        ("lmseq/training/train_step.py", "from lmseq.training.loop import train", "does not come before it"),
        ("lmseq/types.py", "from lmseq.secret import x", "not in the table"),
        ("lmseq/rollout.py", "from lmseq.training.state import TrainState", "may not know of training"),
        ("lmseq/generation.py", "from lmseq import training", "may not know of training"),
        ("lmseq/recurrence/cells/cell.py", "import flax.linen as nn", "only lmseq/models/ knows Flax"),
        ("lmseq/recurrence/cells/cell.py", "from flax import linen", "only lmseq/models/ knows Flax"),
        ("lmseq/plotting.py", "from experiments import train_lm", "stands above the library"),
        ("lmseq/config/knobs.py", "from absl import flags", "uses absl.flags"),
        ("lmseq/config/knobs.py", "import absl.flags", "uses absl.flags"),
        ("lmseq/config/knobs.py", "import os\nx = os.environ['A']", "uses os.environ"),
        ("lmseq/config/knobs.py", "import os.path\nx = os.environ.get('A')", "uses os.environ"),
        ("lmseq/config/knobs.py", "import os as o\nx = o.getenv('A')", "uses os.getenv"),
        ("lmseq/config/knobs.py", "from os import environ as e", "uses os.environ"),
        ("lmseq/config/knobs.py", "import sys\nx = sys.argv[1:]", "uses sys.argv"),
        ("lmseq/config/knobs.py", "print('hello')", "uses print()"),
        ("lmseq/config/knobs.py", "import sys\nsys.stderr.write('hello')", "uses sys.stderr"),
        ("lmseq/training/fit.py", "from tqdm import tqdm", "uses tqdm"),
        ("lmseq/training/fit.py", "import signal", "uses signal"),
        ("lmseq/config/knobs.py", "import importlib\nm = importlib.import_module('flax')", "import_module"),
        ("lmseq/config/knobs.py", "import os  # noqa: F401", "silences a checker"),
        ("lmseq/config/knobs.py", "x = 1  # type: ignore[assignment]", "silences a checker"),
        ("lmseq/helpers.py", "x = 1", "not in the table of floors"),
        ("lmseq/data/utils.py", "x = 1", "no file is called utils.py"),
    ],
)
def test_catches(file, statement, complaint):
    found = violations(file, f'"""A docstring."""\n{statement}\n')
    assert len(found) == 1 and complaint in found[0], found


def test_catches_a_missing_docstring():
    assert violations("lmseq/types.py", "x = 1\n") == ["lmseq/types.py: has no module docstring"]


DIMENSIONS = re.compile(r'\[(?:Array|np\.ndarray|Array \| np\.ndarray), "([^"]*)"\]')


def test_the_glossary_names_every_dimension():
    glossary = ast.get_docstring(ast.parse((ROOT / "lmseq/types.py").read_text(encoding="utf-8")))
    known, unknown = set(re.findall(r"`(\w+)`", glossary)), {}
    for file in FILES:
        for dimensions in DIMENSIONS.findall((ROOT / file).read_text(encoding="utf-8")):
            for name in (each.lstrip("*") for each in dimensions.split()):
                if not name.isdecimal() and name != "..." and name not in known:
                    unknown[name] = file
    assert not unknown, f"explain in the docstring of lmseq/types.py: {unknown}"


def test_requirements_and_the_extra_dev_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith(("#", "-r"))]
    assert required == project["optional-dependencies"]["dev"]
