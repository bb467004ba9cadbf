"""Each script run as a user runs it, and each mistake answered with one line and exit status 2."""

import dataclasses
import importlib.util
import json
import math
import re
import shlex
from pydoc_data.topics import topics
from typing import Any

import pytest

from docs.tools.snippets import pages
from lmseq.config import knobs, language_model
from tests.scripts import SMALL, figures, records, refusal

TEXT = "".join(topics.values())
FLAGS = [*SMALL, "--num_train_steps=60", "--eval_every=20", "--checkpoint_every=20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus with splits of its own, and files to go wrong with."""
    path = tmp_path_factory.mktemp("corpus")
    for name, text in {
        "train": TEXT[:20_000],
        "valid": TEXT[20_000:22_000],
        "test": TEXT[22_000:23_000],
    }.items():
        (path / f"{name}.txt").write_text(text, encoding="utf-8")
    (path / "pairs.tsv").write_text("the class\tthe ssalc\n", encoding="utf-8")
    (path / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (path / "empty.txt").write_bytes(b"")
    (path / "short.txt").write_text("to be or not to be", encoding="utf-8")
    (path / "lacking").mkdir()
    (path / "lacking" / "train.txt").write_text(TEXT[:1000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, scripts, folder):
    """A finished run, its summary and what it said."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    done = scripts.run("train_lm", f"--workdir={workdir}", f"--corpus={folder}", "--target_loss=50", *FLAGS)
    assert done.returncode == 0, done.stderr
    return workdir, json.loads(done.stdout), done


def test_a_run_leaves_what_was_promised(run, folder):
    workdir, summary, done = run
    promised = """corpus model num_parameters valid_loss valid_perplexity valid_bits_per_char
        test_bits_per_char loss_at_1 loss_at_4 loss_at_16 loss_at_64 unigram_loss tokens_per_second
        seconds_to_first_step
        seconds_to_target_loss wall_seconds params_digest""".split()
    assert [name for name in promised if summary.get(name) is None] == []
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert math.isclose(summary["valid_perplexity"], math.exp(summary["valid_loss"]))
    assert math.isclose(summary["valid_bits_per_char"], summary["valid_loss"] / math.log(2))
    assert 0 < summary["seconds_to_first_step"] <= summary["seconds_to_target_loss"] < summary["wall_seconds"]
    names = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
    files = "config.json corpus.json vocab.json metrics.jsonl summary.json loss.png horizon.png".split()
    assert names == {*files, "page.html", "checkpoints", "tensorboard"}
    assert not list(workdir.rglob("*tmp*"))
    found = records(workdir)
    assert [record["step"] for record in found] == list(range(5, 61, 5))
    assert [record["step"] for record in found if "sample" in record] == [20, 40, 60]
    assert found[-1]["valid_loss"] == summary["valid_loss"] < found[3]["valid_loss"]
    assert (
        "uniform" in done.stderr and "k steps ahead" in done.stderr and "sample (temperature" in done.stderr
    )


def test_a_finished_run_is_not_run_again(run, scripts, folder):
    workdir, summary, _ = run
    before = (workdir / "metrics.jsonl").stat().st_mtime_ns
    flags = [f"--workdir={workdir}", f"--corpus={folder}", "--target_loss=50", *FLAGS]
    assert scripts.summary("train_lm", *flags) == summary
    assert (workdir / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def stack(tmp_path_factory, scripts, folder):
    """A finished run of a matrix state and attention, its summary and what it said."""
    workdir = tmp_path_factory.mktemp("runs") / "stack"
    flags = [*FLAGS, "--layers=gla,attention", "--num_heads=2", "--window=100", "--dropout=0.1"]
    done = scripts.run("train_lm", f"--workdir={workdir}", f"--corpus={folder}", *flags)
    assert done.returncode == 0, done.stderr
    assert "gla,attention, 2 layers, 16 units" in done.stderr
    return workdir, json.loads(done.stdout), done


@pytest.mark.parametrize("name", ["run", "stack"])
def test_the_run_scores_its_validation_text_as_it_said(name, request, scripts, folder):
    """Whatever the cut: of attention, in pieces far shorter and far longer than its window."""
    workdir, summary, _ = request.getfixturevalue(name)
    for cut in (
        ["--num_steps=7", "--batch_size=8"],
        ["--num_steps=64"],
        ["--num_steps=1000", "--batch_size=1"],
    ):
        scored = scripts.summary("score_text", f"--run={workdir}", f"--file={folder / 'valid.txt'}", *cut)
        assert scored["num_tokens"] == scored["num_chars"] == 2000
        assert math.isclose(scored["loss"], summary["valid_loss"], rel_tol=1e-6)
        assert math.isclose(scored["log_likelihood"], -2000 * scored["loss"], rel_tol=1e-12)


def test_several_texts_are_ranked_and_tokens_listed(run, scripts):
    workdir, _, _ = run
    texts = ["zqxjkzqxjk", "the class of the object"]
    scored = scripts.summary("score_text", f"--run={workdir}", *(f"--text={text}" for text in texts))
    assert [one["text"] for one in scored["texts"]] == texts[::-1]
    assert scored["texts"][0]["bits_per_char"] < scored["texts"][1]["bits_per_char"]
    done = scripts.run("score_text", f"--run={workdir}", "--text=a b\n", "--per_token")
    *tokens, _, _, last = done.stdout.splitlines()
    assert [line.split(maxsplit=1)[1:] for line in tokens] == [["a"], [], ["b"], ["\\n"]]
    total = sum(float(line.split()[0]) for line in tokens)
    assert math.isclose(total, json.loads(last)["log_likelihood"], abs_tol=1e-3)


def test_samples_are_scored_by_the_model_itself(run, scripts):
    workdir, _, _ = run
    flags = ["--prompt=The ", "--num_samples=3", "--num_tokens=12", "--temperature=0.5", "--seed=3"]
    drawn = scripts.summary("sample_text", f"--run={workdir}", *flags)
    assert scripts.summary("sample_text", f"--run={workdir}", *flags)["samples"] == drawn["samples"]
    scored = scripts.summary(
        "score_text", f"--run={workdir}", "--text=The ", f"--text={drawn['samples'][0]['text']}"
    )
    by_text = {one["text"]: one["log_likelihood"] for one in scored["texts"]}
    conditional = by_text[drawn["samples"][0]["text"]] - by_text["The "]
    assert math.isclose(conditional, drawn["samples"][0]["log_likelihood"], rel_tol=1e-5)


def test_greedy_is_a_beam_of_one_and_a_wider_beam_is_as_likely(run, processes):
    workdir, _, _ = run
    flags = [f"--run={workdir}", "--prompt=The ", "--num_tokens=8"]
    greedy = processes.summary("sample_text", *flags, "--greedy")["samples"]
    (one,) = processes.summary("sample_text", *flags, "--beam_size=1")["samples"]
    wide = processes.summary("sample_text", *flags, "--beam_size=20")["samples"]
    assert greedy[0]["text"] == one["text"] and len(wide) == 20
    assert wide[0]["log_likelihood"] >= one["log_likelihood"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--model=lstm", "--num_layers=2", "--dropout=0.2", "--dropout_kind=variational"],
        ["--model=minlstm", "--level=byte", "--optimizer=adamw", "--weight_decay=0.1"],
        ["--model=mlp", "--tau=4", "--level=word", "--min_count=2", "--schedule=inverse"],
        ["--model=rnn", "--level=bpe", "--bpe_vocab_size=300", "--partition=random", "--host_devices=2"],
        ["--model=mingru", "--embedding_size=16", "--tie_embeddings", "--normalize=letters"],
    ],
    ids=lambda flags: flags[0],
)
def test_every_model_and_level_trains_and_is_sampled_from(tmp_path, scripts, folder, flags):
    workdir = tmp_path / "run"
    summary = scripts.summary("train_lm", f"--workdir={workdir}", f"--corpus={folder}", *FLAGS, *flags)
    assert math.isfinite(summary["valid_loss"]) and math.isfinite(summary["test_bits_per_char"])
    drawn = scripts.summary(
        "sample_text", f"--run={workdir}", "--prompt=the ", "--num_tokens=5", "--top_k=10"
    )
    assert drawn["samples"][0]["log_likelihood"] < 0


def test_help_shows_every_flag_with_its_meaning(processes, scripts):
    shown = processes.run("train_lm", "--help").stdout
    for section in knobs.sections(language_model.LanguageModelConfig).values():
        for knob in dataclasses.fields(section):
            assert f"--{knob.name}={knob.default}" in shown and knob.metadata["help"] in shown
    for script in ("score_text", "sample_text"):
        assert "--run=" in scripts.run(script, "--help").stdout
        assert scripts.run(script, "--help").stdout == processes.run(script, "--help").stdout


# script, flags ({folder} and {run} stand for paths), what the line must say
BAD = [
    ("train_lm", "", "--workdir"),
    ("train_lm", "--workdir={new} --corpus=tinyshakespeare", "did you mean tiny_shakespeare"),
    ("train_lm", "--workdir={new} --corpus={folder}/none.txt", "none.txt"),
    ("train_lm", "--workdir={new} --corpus={folder}/lacking", "missing valid.txt, test.txt"),
    ("train_lm", "--workdir={new} --corpus={folder}/latin.txt", "byte offset 3"),
    ("train_lm", "--workdir={new} --corpus={folder}/empty.txt", "empty"),
    ("train_lm", "--workdir={new} --corpus={folder}/short.txt", "at least 64 tokens"),
    ("train_lm", "--workdir={new} --valid_fraction=0", "valid_fraction"),
    ("train_lm", "--workdir={new} --batch_size=10 --host_devices=4", "4 devices divide"),
    ("train_lm", "--workdir={new} --model=gpt", "gpt"),
    ("train_lm", "--workdir={new} --modle=gru", "model"),
    ("train_lm", "--workdir={new} --learning_rate=nan", "learning_rate"),
    ("train_lm", "--workdir={new} --tau=4", "mlp"),
    ("train_lm", "--workdir={new} --model=mlp --tie_embeddings", "tie_embeddings"),
    ("train_lm", "--workdir={new} gru", "flags only"),
    ("train_lm", "--workdir={folder}/short.txt", "is a file"),
    ("train_lm", "--workdir={folder}", "holds no run"),
    ("train_lm", "--workdir={run} --hidden_size=17", "hidden_size: 16 -> 17"),
    ("score_text", "--text=a", "--run"),
    ("score_text", "--run={folder} --text=a", "config.json"),
    ("score_text", "--run={run}", "--text"),
    ("score_text", "--run={run} --text=a --file={folder}/train.txt", "got --text and --file"),
    ("score_text", "--run={run} --file={folder}/none.txt", "none.txt"),
    ("score_text", "--run={run} --file={folder}/latin.txt", "byte offset 3"),
    ("score_text", "--run={run} --text=a --batch_size=0", "batch_size"),
    ("sample_text", "--run={run} --prompt=Ω", "'Ω'"),
    ("sample_text", "--run={run} --temperature=-1", "temperature"),
    ("sample_text", "--run={run} --top_p=0", "top_p"),
    ("sample_text", "--run={run} --top_p=1.01", "top_p"),
    ("sample_text", "--run={run} --top_k=-1", "top_k"),
    ("sample_text", "--run={run} --num_tokens=0", "num_tokens"),
    ("sample_text", "--run={run} --greedy --temperature=0.5", "contradicts"),
    ("sample_text", "--run={run} --beam_size=2 --num_samples=3", "contradicts"),
]


IN_A_PROCESS = ("", "--workdir={new} --batch_size=10 --host_devices=4", "--run={folder} --text=a")


@pytest.mark.parametrize("script, flags, says", BAD, ids=[f"{s} {f}" for s, f, _ in BAD])
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path, processes, scripts, folder, run, script, flags, says
):
    new = tmp_path / "new"
    before = {path: path.read_bytes() for path in run[0].glob("*.json*")}
    ask = processes.run if flags in IN_A_PROCESS else scripts.attempt
    done = ask(script, *flags.format(new=new, folder=folder, run=run[0]).split())
    progress, last = refusal(done)
    assert says in last
    assert all(line.startswith(("python_docs: ", "short.txt: ", f"{folder.name}: ")) for line in progress)
    assert not new.exists()
    assert {path: path.read_bytes() for path in run[0].glob("*.json*")} == before


def test_no_network_names_both_ways_out(tmp_path, processes):
    nowhere = "http://127.0.0.1:9"
    env = processes.env | {"http_proxy": nowhere, "https_proxy": nowhere, "XDG_CACHE_HOME": str(tmp_path)}
    done = processes.run("train_lm", f"--workdir={tmp_path / 'new'}", "--corpus=ptb", env=env)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "LMSEQ_DATA_DIR" in last and "download" in last


def test_another_text_under_the_same_name_is_refused(tmp_path, scripts):
    corpus, workdir = tmp_path / "text.txt", tmp_path / "run"
    corpus.write_text(TEXT[:20_000], encoding="utf-8")
    scripts.summary("train_lm", f"--workdir={workdir}", f"--corpus={corpus}", *FLAGS)
    (workdir / "summary.json").unlink()
    corpus.write_text(TEXT[1:20_001], encoding="utf-8")
    done = scripts.run("train_lm", f"--workdir={workdir}", f"--corpus={corpus}", *FLAGS)
    assert done.returncode == 2 and "is not the one" in done.stderr.splitlines()[-1]


def test_the_preset_sets_defaults_and_flags_win(tmp_path, scripts, folder):
    flags = [f"--workdir={tmp_path / 'run'}", "--preset=shakespeare_cpu", f"--corpus={folder}", *FLAGS]
    summary = scripts.summary("train_lm", *flags)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["target_loss"] == 1.88 and written["valid_fraction"] == 0.1
    assert written["corpus"] == str(folder) and written["num_train_steps"] == 60
    assert summary["seconds_to_target_loss"] is None


def test_a_run_depends_neither_on_the_folder_nor_on_how_its_process_began(
    tmp_path, run, processes, scripts, folder
):
    """The run was made in a process that was forked, and this one begins with nothing."""
    flags = [f"--workdir={tmp_path / 'b'}", f"--corpus={folder}", "--target_loss=50", *FLAGS]
    done = processes.run("train_lm", *flags, env=scripts.env)
    assert figures(json.loads(done.stdout)) == figures(run[1])
    assert records(tmp_path / "b") == records(run[0])
    assert len(done.stderr.splitlines()) == len(run[2].stderr.splitlines())


# Minutes even when made small, or of another run, and run by test_series_scripts.py, test_claims.py,
# test_ablate.py and test_forecast.py with flags like those of the pages.
ELSEWHERE = "compare_objectives|forecast|window_or_state|iid_or_sequence|claims|ablate|plot_runs"


def commands_of_pages() -> list[Any]:
    """Those of the pages, one of several with the same flags; all but the first of a script are slow."""
    found = {}
    for page in pages():
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in re.findall(r"^python -m (experiments\.[^\n#]+)", block.replace("\\\n", " "), re.M):
                script, *flags = shlex.split(line)
                names = frozenset(flag.partition("=")[0] for flag in flags)
                if not re.match(rf"experiments\.({ELSEWHERE})\b", script):
                    found.setdefault((script, names), line.strip())
    first = {script: line for (script, _), line in reversed(found.items())}
    return [
        line if line == first[script] else pytest.param(line, marks=pytest.mark.slow)
        for (script, _), line in found.items()
    ]


SMALLER = {  # what a command of the pages is given on top, to be over soon
    "train_lm": FLAGS,
    "predict_series": ["--test_fraction=0.3"],
    "train_ngram": ["--discount_fallback"],
}


@pytest.mark.parametrize("line", commands_of_pages())
def test_the_commands_of_the_pages_run(tmp_path, processes, folder, run, line):
    """In processes of their own, on a small text with a small model, whatever the command names."""
    module, *flags = shlex.split(line)
    script = module.removeprefix("experiments.")
    named = {"--corpus": folder, "--workdir": tmp_path / "run", "--run": run[0]}
    named |= {
        "--pairs": folder / "pairs.tsv",
        "--file": folder / "valid.txt",
        "--series": tmp_path / "load.csv",
    }
    named |= {"--runs": run[0], "--init_from": run[0], "--extend": 80}
    named["--series"].write_text("\n".join(["time,load", *(f"{t},{t * t % 50}" for t in range(300))]))
    kept = []
    for name, _, value in (flag.partition("=") for flag in flags if "_fraction=" not in flag):
        if name == "--out":
            value = tmp_path / value.rpartition("/")[2]
        if name == "--runs":
            named[name] = ",".join([str(run[0])] * len(value.split(",")))
        ours = name in named and (name != "--series" or value.endswith(".csv"))
        kept.append(f"{name}={named[name]}" if ours else f"{name}={value}" if value else name)
    if "--model=gru" in flags:
        kept += ["--num_train_steps=60", "--warmup_steps=5"]
    if script == "train_lm":
        kept.append(f"--corpus={folder}")
    env = processes.env | {"XDG_CACHE_HOME": str(tmp_path)}  # or all would take what `native` compiles
    whole = [*SMALLER.get(script, []), *kept]
    if "--extend=80" in whole:  # of a run that is there
        processes.run(script, *(flag for flag in whole if flag != "--extend=80"), env=env)
    done = processes.run(script, *whole, env=env, input="the\n")
    if script == "compile_for" and not importlib.util.find_spec("libtpu"):
        assert "the compiler of TPUs is not installed" in refusal(done)[1]
    else:
        assert done.returncode == 0, done.stderr
