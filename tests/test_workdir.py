"""Whose run a folder holds: of which script, of which config, of which data, wherever that lies."""

import dataclasses
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.frame import workdir as folder_of
from experiments.frame.workdir import Identity, finish, opened
from lmseq.config.knobs import knob
from lmseq.files import to_json
from tests.scripts import strict_json


@dataclass(frozen=True)
class ReadConfig:
    corpus: str = knob("a.txt", "what is read", is_path=True)
    size: int = knob(3, "how much of it")


FACTS = {"corpus": "a.txt", "train": {"sha256": "00ff"}, "runs": [{"path": "/x/a", "params_digest": "11"}]}
RUN = Identity("tests.reader", ReadConfig(), FACTS, "data.json")


def finished(workdir: Path, run: Identity = RUN) -> None:
    with opened(workdir, run) as summary:
        assert summary is None
        finish(workdir, {"size": run.config.size})


def changed(run: Identity = RUN, **facts: Any) -> Identity:
    return run._replace(facts=run.facts | facts)


def summary_of(workdir: Path, run: Identity) -> Any:
    with opened(workdir, run) as summary:
        return summary and json.loads(summary)


MOVED = changed(
    RUN._replace(config=ReadConfig("/elsewhere/b.txt")),
    corpus="b.txt",
    runs=[{"path": "/y/b", "params_digest": "11"}],
)


def test_the_same_data_from_elsewhere_is_the_same_run(tmp_path):
    finished(tmp_path)
    assert summary_of(tmp_path, MOVED) == {"size": 3}


def test_an_unfinished_run_notes_where_its_data_lies_now(tmp_path):
    with opened(tmp_path, RUN):
        pass
    with opened(tmp_path, MOVED):
        pass
    assert json.loads((tmp_path / "config.json").read_text())["corpus"] == "/elsewhere/b.txt"


OTHERS = {
    "other data": (changed(train={"sha256": "00fe"}), "the data of a.txt is not the one"),
    "other data elsewhere": (changed(MOVED, train={"sha256": "00fe"}), "corpus: 'a.txt' -> '/elsewhere"),
    "another part": (changed(runs=[{"path": "/x/a", "params_digest": "12"}]), "the data of a.txt"),
    "another setting": (RUN._replace(config=ReadConfig(size=4)), "size: 3 -> 4"),
    "another script": (RUN._replace(script="tests.writer"), "a run of tests.reader, not of tests.writer"),
}


@pytest.mark.parametrize("run, says", OTHERS.values(), ids=OTHERS)
def test_another_run_is_refused(tmp_path, run, says):
    finished(tmp_path)
    before = sorted((path, path.read_bytes()) for path in tmp_path.iterdir() if path.is_file())
    with pytest.raises(ValueError, match=says) as caught, opened(tmp_path, run):
        raise AssertionError("it was opened")
    assert str(tmp_path) in str(caught.value) and "did you mean" not in str(caught.value)
    assert before == sorted((path, path.read_bytes()) for path in tmp_path.iterdir() if path.is_file())


@dataclass(frozen=True)
class OlderConfig:
    corpus: str = knob("a.txt", "what is read", is_path=True)


def test_a_setting_that_is_not_known_is_of_a_later_version(tmp_path):
    finished(tmp_path)
    older = RUN._replace(config=OlderConfig())
    with pytest.raises(ValueError, match="'size', which is not known here: it is of a later version"):
        summary_of(tmp_path, older)


def test_a_setting_that_is_not_known_may_be_of_another_script(tmp_path):
    """Before scripts were noted."""
    finished(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["script"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert summary_of(tmp_path, RUN) == {"size": 3}
    with pytest.raises(ValueError, match="'size', which is not known here: it is of another script, or"):
        summary_of(tmp_path, RUN._replace(config=OlderConfig(), script="tests.writer"))


def test_names_of_flags_are_no_places(tmp_path):
    """An ablation's facts are the flags of its cells; nothing else says what they are."""
    sweep = RUN._replace(facts={"experiment": "train_lm", "settings": [{"corpus": "a.txt"}]})
    finished(tmp_path, sweep)
    other = sweep._replace(facts={"experiment": "train_lm", "settings": [{"corpus": "b.txt"}]})
    for run in (
        other,
        other._replace(config=ReadConfig("b.txt")),
        sweep._replace(config=ReadConfig("b.txt")),
    ):
        with pytest.raises(ValueError, match=r"the data of train_lm|corpus: 'a\.txt' -> 'b\.txt'"):
            summary_of(tmp_path, run)


def test_facts_that_earlier_versions_did_not_note(tmp_path):
    finished(tmp_path, changed(train={}))
    assert summary_of(tmp_path, RUN) == {"size": 3}
    with pytest.raises(ValueError, match="another config"):  # for the place is all that is known
        summary_of(tmp_path, MOVED)


def test_a_finished_run_is_only_read(tmp_path, monkeypatch):
    finished(tmp_path)

    def refuse(folder: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    monkeypatch.setattr(folder_of, "locked", refuse)
    assert summary_of(tmp_path, RUN) == {"size": 3}
    with pytest.raises(OSError, match="Read-only"), opened(tmp_path, RUN, again=True):
        pass


def test_bad_input_leaves_a_folder_as_it_was_unless_something_was_made(tmp_path):
    def fail(workdir, also=()):
        with pytest.raises(ValueError, match="bad"), opened(workdir, RUN):
            for name in also:
                (workdir / name).write_text("")
            raise ValueError("bad")
        return {path.name for path in workdir.iterdir() if not path.name.startswith(".")}

    both = {"config.json", RUN.name}
    assert fail(tmp_path / "a") == set()
    assert fail(tmp_path / "b", ["metrics.jsonl"]) == both | {"metrics.jsonl"}
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "c", RUN):
        raise KeyboardInterrupt
    assert fail(tmp_path / "c") == both  # it was begun before


def test_a_link_to_nothing_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is a link to nothing: remove it"):
        summary_of(tmp_path / "link", RUN)


def test_what_is_not_finite_is_null(tmp_path, capsys):
    summary = {"loss": float("nan"), "by": [1.0, float("inf"), {"x": -float("inf")}], "n": (1, 2)}
    expected = {"loss": None, "by": [1.0, None, {"x": None}], "n": [1, 2]}
    with opened(tmp_path, RUN):
        finish(tmp_path, summary)
    assert (
        strict_json(capsys.readouterr().out)
        == strict_json((tmp_path / "summary.json").read_text())
        == expected
    )
    assert strict_json(to_json(summary, indent=1)) == expected


def test_a_summary_of_an_earlier_version_is_reprinted_as_json(tmp_path):
    finished(tmp_path)
    (tmp_path / "summary.json").write_text('{"size": 3, "loss": NaN}')
    with opened(tmp_path, RUN) as summary:
        assert strict_json(summary) == {"size": 3, "loss": None}


def test_configs_say_which_knobs_are_places():
    assert [each.name for each in dataclasses.fields(ReadConfig) if each.metadata["is_path"]] == ["corpus"]
