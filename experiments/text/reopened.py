"""A finished run on a text, opened again: what its page is made of, where the page itself is not at hand."""

from pathlib import Path
from typing import Any

from experiments.text import pages, report
from experiments.text.evaluate import load_run
from experiments.text.loading import load_texts, text_of
from experiments.text.pages import Reader, Shown
from experiments.web import runs
from lmseq.config import knobs
from lmseq.config.language_model import LanguageModelConfig, check
from lmseq.config.mixture import AverageConfig
from lmseq.data.texts import Texts
from lmseq.files import read_json, read_text, split_run
from lmseq.models.ngram import fit_counts
from lmseq.runs import MIXTURE, Run
from lmseq.training.metrics import read_records


def data_of_run(path: str, num_tokens: int, *, has_others: bool) -> dict[str, Any]:
    """The data of the page of a run, which may name a checkpoint: `runs/demo:best`.

    has_others: whether it stands beside other runs, and needs no count model beside it. Raises ValueError for
    a run that is not finished, and for one whose text is not what it was.
    """
    folder, _ = split_run(path)
    script, summary = knobs.script_of(folder), runs.summary_of(folder)
    facts, run = runs.facts_of(folder, "corpus.json"), load_run(path, "latest")
    parts = _parts(folder) if script == "mix_models" else []
    texts = _texts_of(parts[0][1] if parts else run)
    if texts.corpus.sha256("valid") != runs.digest_of(facts):
        raise ValueError(
            f"the validation text of {texts.corpus.name} is not the one that {folder} was judged on: restore "
            "it"
        )
    config = run.config
    if script == "average":
        config = knobs.from_json(read_text(folder / "config.json"), AverageConfig, script)
    name, loss = pages.model_name(script, summary), _recorded_loss(run, folder, summary)
    readers = pages.readers_of([(name, loss, run)])
    if not has_others:
        readers += _beside(summary, script, run, parts, texts)
    settles = check if script == "train_lm" else lambda config: config
    shown = Shown(script, config, facts, summary, run.vocab, readers, check=settles)
    return pages.data_of(folder, shown, texts.ids["valid"], num_tokens=num_tokens)


def write_of(workdir: Path, summary: dict[str, Any], texts: Texts) -> None:
    """page.html of a mixture that has just been written, beside its parts."""
    run, parts = load_run(str(workdir), "latest"), _parts(workdir)
    readers = pages.readers_of([("mixture", summary["valid_loss"], run), *_named(parts, summary)])
    facts = {split: texts.corpus.sha256(split) for split in texts.ids}
    pages.write(
        workdir, Shown("mix_models", run.config, facts, summary, run.vocab, readers), texts.ids["valid"]
    )


def _parts(folder: Path) -> list[tuple[str, Run]]:
    """The models of a mixture as they were trained, by the names of their folders."""
    places = [each["path"] for each in read_json(folder / MIXTURE)["runs"]]
    found = [load_run(str(folder / place), "latest") for place in places]
    return [(split_run(place)[0].name, run) for place, run in zip(places, found, strict=True)]


def _named(parts: list[tuple[str, Run]], summary: dict[str, Any]) -> list[tuple[str, float | None, Run]]:
    """With the losses that the mixture's summary has."""
    return [(name, summary.get(f"valid_loss_{name}"), part) for name, part in parts]


def _texts_of(run: Run) -> Texts:
    """The text of a trained model, cut into its tokens."""
    is_taken = isinstance(run.config, LanguageModelConfig) and run.config.course.init_from
    return load_texts(text_of(run.config), vocab=run.vocab if is_taken else None)


def _beside(
    summary: dict[str, Any], script: str, run: Run, parts: list[tuple[str, Run]], texts: Texts
) -> list[Reader]:
    """What a run stands beside on its own page: counts beside a net, its parts beside a mixture."""
    if script == "train_lm":
        most = run.config.report.count_tokens
        counts = fit_counts(texts, report.MOST_ORDER, most_tokens=most)
        return [pages.reader_beside(texts.vocab, counts, summary.get("count_loss"))]
    return pages.readers_of(_named(parts, summary))


def _recorded_loss(run: Run, folder: Path, summary: dict[str, Any]) -> float | None:
    """The validation loss that the records have of the parameters that were loaded, in nats a token."""
    if run.step in (None, summary.get("num_train_steps")) or "num_train_steps" not in summary:
        return summary.get("valid_loss")
    records = read_records(folder / "metrics.jsonl")
    return next((each.get("valid_loss") for each in records if each["step"] == run.step), None)
