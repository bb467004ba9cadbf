"""The claims and what runs them: verdicts of made-up figures, small runs, the report."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from experiments.claims import __main__ as claims_of
from experiments.claims import chain_rule, error_growth, page
from experiments.claims.catalogue import CLAIMS
from experiments.frame.experiment import flag_names
from experiments.frame.flags import define, parse
from lmseq.config import knobs
from tests.oracles import small
from tests.scripts import refusal


def summary_of(verdict: str) -> dict:
    check = {"what": "a | b", "mean": 1.0, "low": 0.5, "high": 1.5, "at_least": 0.0, "at_most": None}
    return {
        "claim": "Something is so.",
        "verdict": verdict,
        "checks": [{**check, "verdict": verdict}],
        "pictures": ["one.png"],
        "measuring_seconds": 12.0,
    }


def test_the_page_has_verdicts_pictures_commands_and_measurements(tmp_path):
    (tmp_path / "runs/zipf").mkdir(parents=True)
    (tmp_path / "runs/zipf/one.png").write_bytes(b"a picture")
    found = {"zipf": summary_of("holds"), "size": summary_of("fails")}
    commands = {name: f"python -m experiments.claims.{name}" for name in found}
    page.write_page(tmp_path / "docs", tmp_path / "runs", found, commands)
    text = (tmp_path / "docs/claims.md").read_text(encoding="utf-8")
    assert "| Something is so. | holds | [zipf](#zipf-holds) |" in text
    assert "| a \\| b | 1 | 0.5 to 1.5 | at least 0 | holds |" in text
    assert "`python -m experiments.claims.zipf`, 12 s of measuring" in text
    assert (tmp_path / "docs/claims/zipf_one.png").read_bytes() == b"a picture"
    of_zipf = text[text.index("## zipf") : text.index("## size")]
    in_order = ["## zipf: holds", "![zipf](claims/zipf_one.png)", "<details", "| a \\| b |", "</details>"]
    assert sorted(in_order, key=of_zipf.index) == in_order


def options(*arguments: str) -> claims_of.ClaimsOptions:
    found = flags.FlagValues()
    names = define(claims_of.ClaimsOptions, found)
    given = parse(found, arguments)
    return claims_of.ClaimsOptions(**{name: given.values[name] for name in names})


def test_claims_are_given_what_they_have_flags_for():
    asked = options("--all", "--quick", "--corpus=a.txt", "--seed=0")
    given = {claim.name: claims_of.command_of(claim, Path("runs"), asked) for claim in CLAIMS}
    for claim in CLAIMS:
        known, words = flag_names(claim), given[claim.name]
        assert words[:4] == ["python", "-m", claim.module, f"--workdir=runs/{claim.name}"]
        assert ("--quick" in words) and ("--seed=0" in words) == ("seed" in known)
        assert any(word.endswith("=a.txt") for word in words) == bool({"corpus", "corpora"} & set(known))
    assert "--corpora=a.txt" in given["chain_rule"] and not any("=a.txt" in w for w in given["truncation"])
    assert claims_of.command_of(CLAIMS[0], Path("r"), options("--all"))[4:] == []


def test_a_script_that_breaks_off_is_a_claim_that_fails(tmp_path):
    broken = dataclasses.replace(CLAIMS[0], module="experiments.claims.no_such_claim")
    found = claims_of.measure(broken, tmp_path, options("--all"))
    assert found["verdict"] == "fails" and "status 1" in found["claim"]


@pytest.mark.parametrize(
    "arguments, name, left",
    [
        (["--name=size", "--quick"], "size", ["--quick"]),
        (["--quick", "--name", "zipf", "--seed=1"], "zipf", ["--quick", "--seed=1"]),
        (["-name=zipf"], "zipf", []),
        (["--all"], None, ["--all"]),
        (["--workdir=/tmp/name=size"], None, ["--workdir=/tmp/name=size"]),
    ],
)
def test_the_name_is_taken_out_of_the_arguments(arguments, name, left):
    claim, rest = claims_of.named(arguments)
    assert (claim and claim.name) == name and rest == left


def test_every_claim_has_a_name_a_command_and_settings_for_a_quick_run():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS) == 13
    for claim in CLAIMS:
        assert claim.pictures and claim.sentence.endswith(".")
        claim.check(knobs.from_flat(claim.quick, claim.config))


@pytest.mark.parametrize("name", ["zipf", "window_or_state"])
def test_a_claim_has_a_command_of_its_own(processes, name):
    """A module and a package; nothing is imported twice, which Python would warn of."""
    done = processes.run(f"claims.{name}", "--help")
    assert done.returncode == 0 and not done.stderr
    assert f"python -m experiments.claims.{name} --workdir=" in done.stdout


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "expected --all, or --name"),
        (["--all"], "expected --workdir"),
        (["--name=nonsense", "--workdir={new}"], "expected --all, or --name"),
        (["--name=truncation", "--workdir={new}", "--order=0"], "order"),
        (["--name=truncation", "--workdir={new}", "--order=12", "--vocab_size=9"], "probabilities"),
        (["--name=truncation", "--workdir={new}", "--num_seeds=1"], "num_seeds"),
        (["--name=truncation", "--workdir={new}", "--concentration=-1"], "concentration"),
        (["--name=chain_rule", "--workdir={new}", "--corpora=ptb,ptb"], "each once"),
        (["--name=error_growth", "--workdir={new}", "--series=nonsense"], "nonsense"),
        (["--name=windows_suffice", "--workdir={new}", "--series=nonsense"], "nonsense"),
        (["--name=windows_suffice", "--workdir={new}", "--series=nile,nile"], "each once"),
        (["--name=windows_suffice", "--workdir={new}", "--windows=2,1"], "ascending"),
        (["--name=recall", "--workdir={new}", "--pairs=1,32"], "num_keys"),
        (["--name=tracking", "--workdir={new}", "--tasks=parity,Z7"], "Z7"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, scripts, arguments, complaint):
    new = tmp_path / "new"
    last = refusal(scripts.attempt("claims", *(each.format(new=new) for each in arguments)))[1]
    assert complaint in last
    assert not new.exists()


def test_truncation_meets_the_exact_entropies(tmp_path, processes, scripts):
    """Order 1 over two symbols is learned in moments: all but the verdict on the brief net can be asked."""
    sizes = "--order=1 --vocab_size=2 --num_tokens=60000 --num_seeds=2 --num_train_steps=150".split()
    workdir = tmp_path / "run"
    done = processes.run(
        "claims", "--name=truncation", f"--workdir={workdir}", "--hidden_size=16", "--seed=5", *sizes
    )
    assert done.returncode in (0, 1), done.stderr
    summary = json.loads(done.stdout)
    assert summary["exact_h_1"] == summary["exact_h_2"] == summary["exact_rate"] < summary["exact_h_0"]
    for tau in (0, 1):
        assert abs(summary[f"count_loss_{tau}"] / summary[f"exact_h_{tau}"] - 1) < 0.01
    assert abs(summary["mlp_loss_1"] / summary["exact_h_1"] - 1) < 0.03
    assert {check["verdict"] for check in summary["checks"] if "count" in check["what"]} == {"holds"}
    assert (workdir / "truncation.png").exists()
    assert done.returncode == (summary["verdict"] == "fails")
    again = scripts.run(
        "claims", "--name=truncation", f"--workdir={workdir}", "--hidden_size=16", "--seed=5", *sizes
    )
    assert json.loads(again.stdout) == summary and again.returncode == done.returncode


@pytest.mark.parametrize("kind", ["gru", "trigram of lines", "hidden Markov source"])
def test_all_continuations_sum_to_one(kind):
    model, params = small(kind)
    passage = np.array([0, 2, 1], np.int32)
    assert chain_rule.sum_of_continuations(model, params, passage, 3) == pytest.approx(1.0, abs=1e-5)


def test_a_model_that_gives_away_too_much_is_noticed():
    """Probabilities that sum to more than one: the first check of `chain_rule` can fail."""
    model, params = small("hidden Markov source")
    wrong = params._replace(emission=1.1 * params.emission)
    assert chain_rule.sum_of_continuations(model, wrong, np.array([0, 1], np.int32), 3) > 1.15


def test_a_score_of_the_truth_does_not_depend_on_the_cut():
    rng = np.random.default_rng(0)
    model, params = small("chain of order 2")
    fitted = chain_rule.Fitted("chain", model, [params])
    assert chain_rule.largest_cut(fitted, rng.integers(3, size=3000).astype(np.int32)) < 1e-6


@pytest.mark.parametrize(
    "ratio_at_1, ratio_at_8, expected",
    [(2.0, 0.5, ["holds", "holds"]), (0.5, 0.5, ["fails", "holds"]), (2.0, 2.0, ["holds", "fails"])],
)
def test_ranks_that_change_and_ranks_that_do_not(ratio_at_1, ratio_at_8, expected):
    rng = np.random.default_rng(1)
    noise = 1.0 + 0.01 * rng.normal(size=(4, 8))
    ratio = np.geomspace(ratio_at_1, ratio_at_8, 8)
    rmse = {"teacher_forcing": np.ones((4, 8)), "unrolled": ratio * noise}
    summary, checks = error_growth.series_checks(error_growth.GrowthConfig(far=8), rmse)
    assert [check.verdict for check in checks] == expected
    assert summary["unrolled_rmse_at_8"] == pytest.approx(ratio_at_8, rel=0.02)
