"""Searches: what is drawn, what halving spends, trials against single runs, going on after a kill."""

import csv
import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest

from experiments import train_lm
from experiments.ablation import found_trials, halving, records, searching, space, sweep_page, together
from experiments.ablation.design import SweepConfig, read_design
from experiments.ablation.halving import Rung
from experiments.ablation.search_state import Search, open_search
from experiments.ablation.settings import pairs_of
from experiments.ablation.trials import draw_round, load_state, read_trials, state_path
from experiments.web import document
from lmseq.training.fit import fit
from tests.pictures import is_drawn_on
from tests.scripts import refusal

TEXT = (
    "model=rnn hidden_size=8 batch_size=8 num_steps=8 warmup_steps=2 steps_per_dispatch=5 "
    "num_train_steps=20 horizon_origins=4 horizon_samples=2"
)
RATES = "learning_rate=1e-3..1e-1:log dropout=0..0.6"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small text to learn."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the cat sat on the mat, and the dog sat on the log. " * 60, encoding="utf-8")
    return path


# What is drawn


def space_of(text, experiment=train_lm.EXPERIMENT):
    return space.read_space(dict(pairs_of(text, "search")), experiment)


def test_draws_lie_in_their_ranges_and_are_of_their_kinds():
    asked = (
        "learning_rate=1e-4..1e-1:log dropout=0..0.6 num_layers=1..3 hidden_size=8..128:log model=gru,lstm"
    )
    drawn = space.draw(space_of(asked), 400, 0)
    rates = np.array([float(each["learning_rate"]) for each in drawn])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-1
    # A third in each decade, within four standard errors.
    assert all(
        abs(np.mean((rates >= low) & (rates < 10 * low)) - 1 / 3) < 0.095 for low in (1e-4, 1e-3, 1e-2)
    )
    dropout = np.array([float(each["dropout"]) for each in drawn])
    assert 0 <= dropout.min() and dropout.max() <= 0.6 and abs(dropout.mean() - 0.3) < 0.035
    assert {each["num_layers"] for each in drawn} == {"1", "2", "3"}
    sizes = np.array([int(each["hidden_size"]) for each in drawn])
    assert 8 <= sizes.min() and sizes.max() <= 128 and abs(np.mean(sizes < 32) - 0.5) < 0.1
    assert {each["model"] for each in drawn} == {"gru", "lstm"}
    assert len({tuple(each.items()) for each in drawn}) == 400


def test_what_is_drawn_is_fixed_by_the_seed_and_fewer_come_first():
    asked = space_of(RATES)
    assert space.draw(asked, 20, 3)[:5] == space.draw(asked, 5, 3) != space.draw(asked, 5, 4)


def test_all_of_a_small_space_can_be_drawn_and_not_more():
    asked = space_of("num_layers=1..3 model=gru,lstm")
    assert len(space.draw(asked, 6, 0)) == 6
    with pytest.raises(ValueError, match="expected at most 6 trials"):
        space.draw(asked, 7, 0)


@pytest.mark.parametrize(
    "asked, share", [("1e-4..1e-1:log", 0.3), ("0..0.6", 0.9), ("8..128:log", 0.5), ("1..30", 0.7)]
)
def test_a_share_is_where_a_number_was_drawn(asked, share):
    name = "hidden_size" if asked[0] in "18" and "e" not in asked else "learning_rate"
    (each,) = space_of(f"{name}={asked}").values()
    value = each.draw(share)
    assert each.draw(each.share(float(value))) == value
    assert each.share(float(value)) == pytest.approx(share, abs=0.03 if name == "hidden_size" else 1e-3)


def test_draws_near_a_setting_lie_about_it_and_at_the_ends():
    asked = space_of("learning_rate=1e-4..1e-1:log dropout=0..0.6 num_layers=1..3 model=gru,lstm")
    center = {"learning_rate": "0.01", "dropout": "0.03", "num_layers": "2", "model": "lstm"}
    found = space.draw_near(asked, center, [center], [], 400, [0, 1])
    assert len({tuple(each.items()) for each in [center, *found]}) == 401
    assert {each["model"] for each in found} == {"lstm"}
    # Phi(-0.05 / 0.2) of the draws fall below the range of dropout: its end stands for them.
    at_end = np.mean([float(each["dropout"]) == 0 for each in found])
    assert at_end == pytest.approx(0.40, abs=0.07)
    logs = np.log10([float(each["learning_rate"]) for each in found])
    assert logs.mean() == pytest.approx(-2, abs=0.1) and logs.std() == pytest.approx(0.6, abs=0.08)
    assert found == space.draw_near(asked, center, [center], [], 400, [0, 1])
    assert found != space.draw_near(asked, center, [center], [], 400, [0, 2])


def test_what_is_no_run_is_not_drawn_near_a_setting():
    asked = space_of("dropout=0..1")
    found = space.draw_near(
        asked, {"dropout": "0.99"}, [], [], 50, [0], lambda setting: setting["dropout"] != "1.0"
    )
    assert len(found) == 50 and {"dropout": "1.0"} not in found
    assert {"dropout": "1.0"} in space.draw_near(asked, {"dropout": "0.99"}, [], [], 50, [0])


@pytest.mark.parametrize("seed", range(4))
def test_a_round_leaves_out_ends_that_a_choice_cannot_have(text, seed):
    """A warm-up of all steps is no run under the schedule cosine, and is one under a constant rate."""
    fixed = f"corpus={text} model=rnn hidden_size=8 batch_size=8 num_steps=8 num_train_steps=19"
    asked = "schedule=constant,cosine warmup_steps=0..19"
    design = read_design(
        SweepConfig(search=asked, trials=8, halving=2, fixed=fixed, rounds=3, first_seed=seed)
    )
    settings = [{"schedule": "cosine", "warmup_steps": str(steps)} for steps in range(18, 10, -1)]
    design = design._replace(settings=settings)
    design, trials = draw_round(design, read_trials(design), 1, 0)
    assert len(trials.cells) == len(trials.configs) == 6
    assert {"schedule": "cosine", "warmup_steps": "19"} not in design.settings


def test_a_ledger_of_other_settings_is_refused(in_rounds, text, tmp_path, monkeypatch):
    _, folders = in_rounds
    shutil.copytree(folders[4], tmp_path / "run")
    monkeypatch.setattr(space, "NEAR", 0.3)
    with pytest.raises(ValueError, match="other settings than are drawn here"):
        searched(text, tmp_path / "run", rounds=3)


def test_where_few_are_left_near_a_setting_the_pool_gives_the_rest():
    asked = space_of("num_layers=1..3 model=gru,lstm")
    everything = space.draw(asked, 6, 0)
    found = space.draw_near(asked, everything[0], everything[:2], everything, 4, [0])
    assert sorted(map(str, [*everything[:2], *found])) == sorted(map(str, everything))


def test_a_path_is_a_choice():
    assert space_of("corpus=../a.txt,../b.txt")["corpus"].values == ("../a.txt", "../b.txt")


@pytest.mark.parametrize(
    "asked, message",
    [
        ("learning_rate=1e-1..1e-4", r"learning_rate=0.1\.\.0.0001|LOW below HIGH"),
        ("learning_rate=1e-3..1e-3", "LOW below HIGH"),
        ("learning_rate=0..1e-1:log", "begins above 0"),
        ("learning_rate=-1..1e-1:log", "begins above 0"),
        ("learning_rate=1e-3..1e-1:lin", "HIGH:log"),
        ("learning_rate=1e-3..high", "two numbers"),
        ("learning_rate=..1e-3", "two numbers"),
        ("learning_rate=1e-3..inf", "two numbers"),
        ("learning_rate=1e-3,1e-2:log", "learning_rate=a,b"),
        ("learning_rate=1e-3,fast", "to be a number"),
        ("learning_rate=1e-3,0.001", "stands twice"),
        ("learning_rate=1e-3,,1", "empty value"),
        ("learning_rate=1e-3", "in --fixed"),
        ("hidden_size=8..16.5", "whole bounds"),
        ("hidden_size=8,16.5", "a whole number"),
        ("model=1..3", "is no number"),
        ("tie_embeddings=0..1", "is no number"),
        ("tie_embeddings=true,maybe", "true or false"),
        ("model=gru,lstmm", "one of rnn"),
    ],
)
def test_a_wrong_range_or_list_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        space_of(asked)


# What halving spends


def test_rungs_are_what_they_say():
    assert halving.rungs_of(64, 4, 0, 3000, 50) == [Rung(64, 188), Rung(16, 752), Rung(4, 3000)]
    found = halving.rungs_of(64, 4, 4, 3000, 50)
    assert found == [Rung(64, 47), Rung(16, 188), Rung(4, 752), Rung(1, 3000)]
    assert halving.rungs_of(10, 3, 0, 90, 50) == [Rung(10, 10), Rung(3, 30), Rung(1, 90)]
    assert halving.rungs_of(7, 4, 0, 90, 50) == [Rung(7, 23), Rung(1, 90)]
    # 64 to the first; of 16 what is new of the second; of 4 what is new of the last.
    assert halving.cost([Rung(64, 188), Rung(16, 752), Rung(4, 3000)]) == 64 * 188 + 16 * 564 + 4 * 2248


@pytest.mark.parametrize("trials", [4, 7, 16, 64, 100])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("steps", [100, 101, 3000])
@pytest.mark.parametrize("dispatch", [1, 7, 50])
def test_rungs_grow_and_trials_fall(trials, factor, steps, dispatch):
    rungs = halving.rungs_of(trials, factor, 0, steps, dispatch)
    assert rungs[0].trials == trials and rungs[-1].steps == steps
    for before, after in pairwise(rungs):
        assert after.trials == before.trials // factor
        assert before.steps < after.steps <= factor * before.steps
    period = halving.period_of(rungs, dispatch)
    assert 1 <= period <= dispatch and all(rung.steps % period == 0 for rung in rungs[:-1])


def test_rounds_share_the_trials():
    found = halving.rounds_of(64, 4, 0, 0, 2400, 50)
    first = [Rung(32, 150, 0), Rung(8, 600, 0), Rung(2, 2400, 0)]
    later = [[Rung(16, 600, number), Rung(4, 2400, number)] for number in (1, 2)]
    assert found == [*first, *later[0], *later[1]]
    spent = 32 * 150 + 8 * 450 + 2 * 1800 + 2 * (16 * 600 + 4 * 1800)
    assert halving.cost(found) == spent < 64 * 2400 / 3
    assert [halving.trials_of_round(found, number) for number in range(3)] == [
        range(32),
        range(32, 48),
        range(48, 64),
    ]


@pytest.mark.parametrize("trials", [8, 13, 64])
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_each_round_ends_with_whole_trainings(trials, factor, rounds):
    found = halving.rounds_of(trials, factor, 0, rounds, 1000, 50)
    assert halving.num_trials(found) == trials
    ends = [rung for number, rung in enumerate(found) if halving.ends_round(found, number)]
    assert {rung.steps for rung in ends} == {1000} and [rung.round for rung in ends] == list(range(len(ends)))
    assert rounds in (0, len(ends)) and min(rung.trials for rung in found) >= 1
    for before, after in pairwise(found):
        assert before.round != after.round or (before.trials >= after.trials and before.steps < after.steps)


@pytest.mark.parametrize("rounds", [-1, 6])
def test_rounds_that_cannot_be_are_refused(rounds):
    with pytest.raises(ValueError, match=f"rounds from 1 to 5, .* of 16 trials, or 0, got {rounds}"):
        halving.rounds_of(16, 4, 0, rounds, 1000, 50)


@pytest.mark.parametrize(
    "asked, message",
    [
        ((64, 1, 0, 100), "halving of at least 2"),
        ((3, 4, 0, 100), "trials of at least halving=4"),
        ((64, 4, 5, 1000), "rungs from 2 to 4"),
        ((64, 4, 1, 1000), "rungs from 2 to 4"),
        ((64, 4, 4, 60), "num_train_steps of at least 64"),
    ],
)
def test_rungs_that_cannot_be_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        halving.rungs_of(*asked, 50)


def test_the_best_are_those_of_least_loss():
    assert halving.best({3: 2.0, 1: None, 5: 1.0, 0: 2.0, 4: float("inf")}, 2) == [5, 0]
    assert halving.best({1: None}, 1) == []


# A search, in this process


def searched(text, workdir, search=RATES, trials=8, factor=2, fixed=TEXT, rounds=1):
    """A search of few steps, not yet run."""
    fixed = f"corpus={text} {fixed}"
    asked = SweepConfig(search=search, trials=trials, halving=factor, fixed=fixed, rounds=rounds)
    design = read_design(asked)
    workdir.mkdir(exist_ok=True)
    return open_search(design, read_trials(design), workdir)


def run(search, progress=lambda search: None):
    """The best trial of a search that is run."""
    return searching.run(search, progress).best()


class Done(NamedTuple):
    """A search that is done, its best trial, and its folder as it was before the last rung."""

    search: Search
    winner: int
    before: Path


@pytest.fixture(scope="module")
def done(text, tmp_path_factory):
    """A search killed when the states of its second rung were saved and not noted, with a torn line there."""
    workdir, before = tmp_path_factory.mktemp("search") / "run", tmp_path_factory.mktemp("before") / "run"
    search, note, noted = searched(text, workdir), searching.note, []

    def kill(ledger, record):
        noted.append(record)
        if len(noted) == 2:
            raise KeyboardInterrupt
        note(ledger, record)

    with mock.patch.object(searching, "note", kill), pytest.raises(KeyboardInterrupt):
        run(search)
    with (workdir / records.RUNGS).open("a", encoding="utf-8") as file:
        file.write('{"rung": 1, "steps')
    search = searched(text, workdir)
    assert len(search.records) == 1

    def copy(search):
        if search.records[-1]["rung"] == 1:
            shutil.copytree(workdir, before)

    return Done(search, run(search, copy), before)


def test_halving_spends_what_it_says_and_the_best_go_on(done):
    search, rungs = done.search, [Rung(8, 5), Rung(4, 10), Rung(2, 20)]
    assert search.trials.rungs == rungs
    assert [record["begin"] for record in search.records] == [0, 5, 10]
    assert found_trials.spent(search.records) == halving.cost(rungs) == 8 * 5 + 4 * 5 + 2 * 10
    for number in (1, 2):
        before, here = search.losses(number - 1), search.losses(number)
        assert set(here) == set(sorted(before, key=before.__getitem__)[: rungs[number].trials])
    assert done.winner == min(search.losses(2), key=search.losses(2).__getitem__)
    assert not (search.workdir / searching.STATES).exists(), "nothing goes on from the last rung"


def test_a_trial_at_a_rung_is_a_run_of_its_own_bit_for_bit(done):
    """Trained without a stop and by itself: the loss at the last rung, and the whole state at the second."""
    (cells, configs, _), trial = done.search.trials, done.winner
    work = together.work_of(together.Group([cells[trial]], [configs[trial]]))
    for number, steps in ((1, 10), (2, 20)):
        cuts, names = searching.cuts_of(done.search.trials, 0, steps), done.search.design.names
        [state] = together.train_together([configs[trial]], work, cuts=cuts, traced=names)
        found = work.valid_loss(configs[trial], state.state.params)
        assert found == done.search.losses(number)[trial]
        if steps == 10:
            folder = done.before / searching.STATES
            kept = [state_path(folder, each, 10) for each in done.search.alive(2)]
            assert sorted(folder.iterdir()) == sorted(kept), "of the others nothing is kept"
            leaves = jax.tree.leaves(state)
            there = load_state(state_path(folder, trial, 10), leaves)
            assert all(np.array_equal(x, y) for x, y in zip(there, leaves, strict=True))


def test_a_trial_is_the_run_of_its_settings(done):
    """`fit` with the trial's settings, evaluated at the rungs: another program, so to rounding."""
    (cells, configs, _), trial = done.search.trials, done.winner
    work = together.work_of(together.Group([cells[trial]], [configs[trial]]))
    train = dataclasses.replace(configs[trial].train, eval_every=5)

    def evaluate(params, step):
        return {"valid_loss": work.valid_loss(configs[trial], params)}

    found = fit(work.model, work.streams[0], train, batches=work.batches, evaluate=evaluate)
    losses = {record["step"]: record["valid_loss"] for record in found.records}
    for number, steps in enumerate((5, 10, 20)):
        assert losses[steps] == pytest.approx(done.search.losses(number)[trial], rel=1e-5)


def test_a_state_that_is_damaged_is_trained_anew(done, text, tmp_path):
    shutil.copytree(done.before, tmp_path / "run")
    path = state_path(tmp_path / "run" / searching.STATES, done.winner, 10)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    search = searched(text, tmp_path / "run")
    assert run(search) == done.winner
    assert [record["begin"] for record in search.records] == [0, 5, 0]
    assert search.losses(2) == done.search.losses(2)


def test_trials_that_memory_has_no_room_for_at_once_are_parted(done, monkeypatch):
    monkeypatch.setattr(searching, "most_members", lambda model: 3)
    assert searching.parts_of(done.search.trials, [0, 2, 3, 5, 7]) == [[0, 2, 3], [5, 7]]


def test_a_trial_that_diverges_is_dropped_and_other_kinds_have_programs_of_their_own(text, tmp_path):
    search = searched(text, tmp_path / "odd", "learning_rate=1e-2,1e30 num_layers=1,2", trials=4, factor=4)
    winner, settings = run(search), search.design.settings
    assert settings[winner]["learning_rate"] == "1e-2"
    assert [len(record["trials"]) for record in search.records if not record["rung"]] == [2, 2]
    assert sorted(trial for trial, loss in search.losses(0).items() if loss is None) == [
        trial for trial, setting in enumerate(settings) if setting["learning_rate"] == "1e30"
    ]
    rows = found_trials.ranked(found_trials.trial_rows(search))
    assert rows[0]["trial"] == winner and rows[-1]["valid_loss"] is None and rows[-1]["diverged_at"] <= 5
    found_trials.write(search)
    is_drawn_on(search.workdir / "search.png")


def test_where_none_is_finite_it_is_said(text, tmp_path):
    search = searched(text, tmp_path / "none", "learning_rate=1e30,1e31", trials=2)
    with pytest.raises(ValueError, match="finite validation loss"):
        run(search)


@pytest.fixture(scope="module")
def in_rounds(text, tmp_path_factory):
    """A search in three rounds, done at once, and a copy of its folder when the second had begun."""
    search, folders = searched(text, tmp_path_factory.mktemp("rounds") / "run", rounds=3), []

    def copy(search):
        folders.append(search.workdir.with_name(f"after{len(search.records)}"))
        shutil.copytree(search.workdir, folders[-1])

    return searching.run(search, copy), folders


def test_later_rounds_are_drawn_around_the_best_so_far(in_rounds):
    search, _ = in_rounds
    rungs = [Rung(4, 5, 0), Rung(2, 10, 0), Rung(1, 20, 0)]
    assert search.trials.rungs == rungs + [
        Rung(n, steps, i) for i in (1, 2) for n, steps in ((2, 10), (1, 20))
    ]
    assert [record["begin"] for record in search.records] == [0, 5, 10, 0, 10, 0, 10]
    assert found_trials.spent(search.records) == halving.cost(search.trials.rungs)
    finals = search.losses(2) | search.losses(4) | search.losses(6)
    assert search.best() == min(finals, key=finals.__getitem__)
    asked, before = space_of(RATES), [search.losses(2), search.losses(2) | search.losses(4)]
    for number, losses in enumerate(before, 1):
        mine = halving.trials_of_round(search.trials.rungs, number)
        known, center = search.design.settings[: mine.start], min(losses, key=losses.__getitem__)
        drawn = space.draw_near(asked, known[center], known, [], len(mine), [0, number])
        assert search.design.settings[mine.start : mine.stop] == drawn
    assert sorted(search.losses(3)) == [4, 5] and sorted(search.losses(5)) == [6, 7]


def test_a_search_in_rounds_goes_on_to_the_same_end(in_rounds, text, tmp_path):
    """Stopped within the second round."""
    whole, folders = in_rounds
    shutil.copytree(folders[3], tmp_path / "run")
    search = searching.run(searched(text, tmp_path / "run", rounds=3), lambda search: None)
    assert search.design.settings == whole.design.settings
    for one, other in zip(search.records, whole.records, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_what_is_known_of_later_rounds_goes_where_a_line_of_an_earlier_one_was_lost(
    in_rounds, text, tmp_path
):
    _, folders = in_rounds
    shutil.copytree(folders[4], tmp_path / "run")
    path = tmp_path / "run" / records.RUNGS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]), encoding="utf-8")
    search = searched(text, tmp_path / "run", rounds=3)
    assert [record["rung"] for record in search.records] == [0, 1]


def test_the_table_of_a_search_in_rounds_has_all_trials(in_rounds, tmp_path):
    search, _ = in_rounds
    found_trials.write(search._replace(workdir=tmp_path))
    assert len(rows_of(tmp_path / "trials.csv")) == 8
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| 3     | 7    | 1 of 1 | 20      |" in text and "of 8 full trainings" in text
    is_drawn_on(tmp_path / "search.png")


def test_a_series_is_searched_by_its_validation_part(tmp_path):
    fixed = "preset=one_step num_points=300 hidden_size=8 batch_size=16 num_train_steps=20 max_horizon=4 "
    asked = SweepConfig("predict_series", search="learning_rate=1e-3..1e-1:log", trials=4, fixed=fixed)
    with pytest.raises(ValueError, match="give valid_fraction"):
        read_trials(read_design(asked))
    asked = SweepConfig("predict_series", search=asked.search, trials=4, fixed=f"{fixed} valid_fraction=0.2")
    design = read_design(asked)
    tmp_path.joinpath("run").mkdir()
    search = open_search(design, read_trials(design), tmp_path / "run")
    winner = run(search)
    assert search.losses(1)[winner] == min(search.losses(1).values())


# The script


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def script(scripts, text, tmp_path_factory):
    """The script's folder, and its summary."""
    workdir = tmp_path_factory.mktemp("script") / "search"
    flags = [f"--search={RATES}", "--trials=6", "--halving=3", f"--fixed=corpus={text} {TEXT}", "--seeds=2"]
    return workdir, scripts.summary("ablate", *flags, "--first_seed=4", f"--workdir={workdir}"), flags


def test_the_script_says_what_was_spent_and_what_the_best_is_worth(script):
    workdir, summary, _ = script
    assert summary["steps"] == 6 * 8 + 2 * 12 and summary["steps_with_seeds"] == summary["steps"] + 2 * 20
    assert summary["share_of_steps"] == pytest.approx(72 / 120)
    rows = rows_of(workdir / "table.csv")
    assert [row["seed"] for row in rows] == ["5", "6"], "seeds that no trial had"
    losses = [float(row["valid_loss"]) for row in rows]
    assert summary["valid_loss"] == pytest.approx(sum(losses) / 2)
    assert summary["valid_loss_low"] < min(losses) and summary["valid_loss_high"] > max(losses)
    table = (workdir / "table.md").read_text(encoding="utf-8")
    assert "72 of 120 steps of 6 full trainings, 60.0 %" in table and "seeds that no trial had" in table
    trials = rows_of(workdir / "trials.csv")
    assert [row["rung"] for row in trials] == ["1"] * 2 + ["0"] * 4
    assert float(trials[0]["valid_loss"]) == summary["best_trial_loss"]
    is_drawn_on(workdir / "search.png")


def test_the_page_has_a_row_for_each_trial_and_is_made_again_alike(script):
    workdir, summary, _ = script
    page = document.read_page(workdir / "page.html")
    rows, trials = page["table"], rows_of(workdir / "trials.csv")
    assert [str(row["trial"]) for row in rows] == [row["trial"] for row in trials]
    assert rows[0]["trial"] == summary["best_trial"]
    assert rows[0]["valid_loss_at_20"] == pytest.approx(summary["best_trial_loss"])
    assert rows[0]["fresh seeds"] == pytest.approx(summary["valid_loss"])
    assert rows[1]["fresh seeds"] is None and rows[-1]["valid_loss_at_20"] is None
    assert sweep_page.data_of_folder(workdir)["table"] == rows


def test_a_finished_search_is_reprinted_and_another_refused(script, scripts):
    workdir, summary, flags = script
    assert (
        json.loads(scripts.attempt("ablate", *flags, "--first_seed=4", f"--workdir={workdir}").stdout)
        == summary
    )
    other = scripts.attempt("ablate", *flags, "--first_seed=5", f"--workdir={workdir}")
    assert "another config" in refusal(other)[1]


BAD = [
    ("--search=learning_rate=1e-1..1e-4", "LOW below HIGH"),
    ("--search=learning_rate=0..0.1:log", "begins above 0"),
    ("--search=learning_rate=1e-3...1e-1", "two dots"),
    ("--search=learning_rate=-1e308..1e308", "narrower"),
    ("--search=learning_rate=1e-300..1e300:log", "narrower"),
    ("--search=learning_rates=0.1..0.2", "did you mean --learning_rate?"),
    ("--search=model=1..2", "model is no number"),
    ("--search=learning_rate=0.1..0.2 --halving=1", "halving of at least 2"),
    ("--search=learning_rate=0.1..0.2 --trials=3", "trials of at least halving=4"),
    ("--search=learning_rate=0.1..0.2 --trials=0", "trials of at least 1"),
    ("--search=learning_rate=0.1..0.2 --trials=1000000", "at most 100,000 cells"),
    ("--search=learning_rate=0.1..0.2 --sweep=tau=1", "and not several"),
    ("--search=learning_rate=0.1..0.2 --settings=a.json", "and not several"),
    ("--search=learning_rate=0.1..0.2 --separate", "leave --separate out"),
    ("--search=learning_rate=0.1..0.2 --compare=tau=1", "leave --compare"),
    ("--search=learning_rate=0.1..0.2 --best=most", "--best"),
    ("--sweep=learning_rate=0.1,0.2 --trials=8", "read by --search"),
    ("--search=learning_rate=0.1..0.2 --experiment=train_ngram", "has no flag --learning_rate"),
    (
        "--search=order=2..5 --trials=4 --experiment=train_ngram --seeds=1",
        "is for train_lm and predict_series",
    ),
    ("--search=num_train_steps=100..200", "of one num_train_steps"),
    ("--search=eval_every=100..200", "leave it out"),
    ("--search=dropout=0.5..1.5", "expected dropout"),
    ("--search=learning_rate=0.1..0.2 --fixed=learning_rate=1", "both fixed and varied"),
    ("--search=seed=1..5", "--first_seed"),
    ("--search=learning_rate=0.1..0.2 --rounds=-1", "rounds from 1 to 17"),
    ("--search=learning_rate=0.1..0.2 --trials=16 --rounds=6", "rounds from 1 to 5"),
    ("--search=model=gru,lstm --trials=2 --halving=2 --rounds=2", "has no LOW..HIGH"),
    ("--sweep=learning_rate=0.1,0.2 --rounds=2", "read by --search"),
]


@pytest.mark.parametrize("flags, says", BAD)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, scripts, flags, says):
    new = tmp_path / "new"
    progress, last = refusal(scripts.attempt("ablate", *flags.split(), f"--workdir={new}"))
    assert says in last and not progress and not new.exists()


def test_a_dry_run_says_what_a_search_costs(scripts, tmp_path):
    flags = [f"--search={RATES}", "--fixed=num_train_steps=1600", "--dry_run"]
    done = scripts.attempt("ablate", *flags, f"--workdir={tmp_path / 'new'}")
    assert done.returncode == 0 and not (tmp_path / "new").exists()
    assert "30,400 of 102,400 steps, 29.7 %" in done.stdout and "35,200, 34.4 %" in done.stdout


def test_a_search_of_blanks_is_no_sweep(tmp_path, scripts):
    done = scripts.attempt("ablate", "--search= ", "--sweep=seed=1,2", f"--workdir={tmp_path / 'new'}")
    assert "got blanks" in refusal(done)[1]
