"""Flags as they are read: paths from home, and what no flag can be."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from absl import flags

from experiments.frame.flags import config_of, define, parse
from lmseq.config.knobs import knob


@dataclass(frozen=True)
class Options:
    text: str = knob("", "a text")
    file: str = knob("", "a file", is_path=True)


def read(*arguments: str) -> dict[str, str]:
    found = flags.FlagValues()
    define(Options, found)
    return parse(found, arguments).values


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/runs/x", "{home}/runs/x"),
        ("~", "{home}"),
        ("a,~/b,c", "a,{home}/b,c"),
        ("~/a,~/b", "{home}/a,{home}/b"),
        ("a~/b", "a~/b"),
        ("./~", "./~"),
        ("$HOME", "$HOME"),
        ("", ""),
    ],
)
def test_paths_begin_at_home(monkeypatch, tmp_path, given, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read(f"--file={given}")["file"] == expected.format(home=tmp_path)
    assert read(f"--text={given}")["text"] == given


def test_a_flag_may_have_a_name_that_no_field_can():
    @dataclass(frozen=True)
    class Since:
        first_date: str = knob("", "a date", flag="from")

    found = flags.FlagValues()
    assert define(Since, found) == ["from"]
    given = parse(found, ["--from=2024-01-31"])
    assert config_of(Since, given, {"first_date": "2023-01-01"}) == Since("2024-01-31")
    found = flags.FlagValues()
    define(Since, found)
    assert config_of(Since, parse(found, []), {"first_date": "2023-01-01"}) == Since("2023-01-01")
    with pytest.raises(flags.Error, match="first_date"):
        parse(found, ["--first_date=2024-01-31"])


def test_a_home_that_is_not_known_is_refused():
    with pytest.raises(flags.Error, match=r"file=.*no home to put in the place of ~nobody-has-this-name"):
        read("--file=~nobody-has-this-name/x")


@pytest.mark.parametrize("name", ["text", "file"])
def test_bytes_that_are_not_utf_8(name):
    for arguments in ([f"--{name}=caf\udce9"], [f"--{name}", "caf\udce9"]):
        with pytest.raises(ValueError, match=f"expected --{name} in UTF-8"):
            read(*arguments)


def test_a_path_is_a_text(tmp_path):
    assert Path(read(f"--file={tmp_path}")["file"]) == tmp_path
