"""How a language model's run is judged and concluded, with a Markov chain for a model: every loss by hand."""

import dataclasses
import json
import math
from itertools import pairwise

import jax
import numpy as np
import pytest

from experiments.text import evaluate, report
from experiments.text.evaluate import PreparedText
from lmseq.config import knobs
from lmseq.config.language_model import DataConfig, LanguageModelConfig, ModelConfig, ReportConfig
from lmseq.data.sources import MarkovChain, stationary_law
from lmseq.data.texts import load_texts
from lmseq.models.sources import put_source
from lmseq.training.checkpoint import Progress
from lmseq.training.fit import Trained
from tests.pictures import is_drawn_on

TABLE = np.random.default_rng(3).dirichlet(np.ones(5), 5)  # of <unk> and four letters


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    letters = np.random.default_rng(0).choice(list("abcd"), 2000, p=[0.4, 0.3, 0.2, 0.1])
    path.write_text("".join(letters), encoding="utf-8")
    data = DataConfig(corpus=str(path), valid_fraction=0.05, test_fraction=0.1)
    config = LanguageModelConfig(data=data, report=ReportConfig(horizon_origins=30, horizon_samples=16))
    texts = load_texts(config.data)
    assert texts.vocab.token_strings(range(5))[1:] == list("abcd") and texts.ids["valid"].size == 100
    return PreparedText(config, texts, put_source(MarkovChain(TABLE))[0])


@pytest.fixture(scope="module")
def params():
    return put_source(MarkovChain(TABLE))[1]


def nll(ids: np.ndarray) -> float:
    """Of a stream, token by token."""
    first = math.log(stationary_law(TABLE)[ids[0]])
    return -first - sum(math.log(TABLE[a, b]) for a, b in pairwise(ids))


def cut_to(prepared: PreparedText, split: str, size: int) -> PreparedText:
    """The same with the beginning of a split only."""
    corpus = prepared.texts.corpus._replace(**{split: getattr(prepared.texts.corpus, split)[:size]})
    ids = {**prepared.texts.ids, split: prepared.texts.ids[split][:size]}
    return prepared._replace(texts=prepared.texts._replace(corpus=corpus, ids=ids))


def test_a_split_is_one_stream(prepared, params):
    ids = prepared.texts.ids["test"]
    found = evaluate.split_figures(prepared, params, "test")
    assert found["test_loss"] == pytest.approx(nll(ids) / ids.size, rel=1e-5)
    assert found["test_perplexity"] == pytest.approx(math.exp(found["test_loss"]))
    assert found["test_bits_per_char"] == pytest.approx(found["test_loss"] / math.log(2))


def test_an_empty_split_has_no_figures(prepared, params):
    found = evaluate.split_figures(cut_to(prepared, "test", 0), params, "test")
    assert found == {"test_loss": None, "test_perplexity": None, "test_bits_per_char": None}


def test_a_sample_goes_on_from_the_first_token_and_depends_on_seed_and_step(prepared, params):
    def sample(step: int, seed: int = 0) -> str:
        train = dataclasses.replace(prepared.config.train, seed=seed)
        seeded = prepared._replace(config=dataclasses.replace(prepared.config, train=train))
        return evaluate.evaluate(seeded, params, step)["sample"]

    found = sample(7)
    first = prepared.texts.vocab.decode(prepared.texts.ids["valid"][:1])
    assert found.startswith(first) and len(prepared.texts.vocab.encode(found)) >= 161
    assert sample(7) == found and len({found, sample(8), sample(7, seed=1)}) == 3


def test_models_in_words():
    assert (
        evaluate.describe(ModelConfig(model="gru", num_layers=2, hidden_size=8)) == "gru, 2 layers, 8 units"
    )
    assert evaluate.describe(ModelConfig(model="mlp", num_layers=1, hidden_size=8)) == "mlp, 1 layer, 8 units"
    assert evaluate.describe(ModelConfig(model="linear")) == "linear"


def test_the_unigram_model_adds_one_to_each_count(prepared):
    train, valid = (prepared.texts.ids[split] for split in ("train", "valid"))
    counts = np.array([(train == symbol).sum() for symbol in range(5)])
    expected = -np.log((counts[valid] + 1) / (train.size + 5)).mean()
    assert report.unigram_figures(prepared)["loss"] == pytest.approx(expected)


def test_counts_know_a_cycle_that_a_text_ends_with(tmp_path, params, capsys):
    """Of abcd abcd ... each letter is known from the one before it; that not all is counted is said."""
    path = tmp_path / "cycle.txt"
    path.write_text("dcba" * 100 + "abcd" * 300, encoding="utf-8")
    config = LanguageModelConfig(data=DataConfig(corpus=str(path)), report=ReportConfig(count_tokens=900))
    prepared = PreparedText(config, load_texts(config.data), None)
    found, _ = report.best_counts(prepared)
    assert found["loss"] < 0.05 and 2 <= found["order"] <= report.MOST_ORDER and found["num_bytes"] > 0
    assert found["tokens"] == 900
    losses = {"valid_loss": 1.0, "valid_bits_per_char": 1.0}
    report._print_table(prepared, params, found, found, losses, 0.0)
    assert f"{found['order']}-gram of the latest 900  " in capsys.readouterr().err


def test_a_run_from_before_a_setting_is_of_the_same_config():
    written = knobs.to_flat(LanguageModelConfig())
    del written["count_tokens"]
    assert knobs.differences(knobs.from_flat(written, LanguageModelConfig), LanguageModelConfig()) == []


@pytest.fixture(scope="module")
def concluded(tmp_path_factory, prepared, params):
    """A summary, and the folder that its pictures are in."""
    workdir = tmp_path_factory.mktemp("run")
    records = [{"step": step, "train_loss": 2.0 / step, "valid_loss": 3.0 / step} for step in (1, 2, 3)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    progress = Progress(best_valid_loss=1.0, best_step=2, seconds=5.0)
    trained = Trained(params, records, progress, False, 5.0, 1000.0, 0.5)
    return report.conclude(prepared, workdir, trained), workdir


def test_a_run_is_concluded(concluded, prepared, params):
    summary, workdir = concluded
    valid = prepared.texts.ids["valid"]
    assert summary["valid_loss"] == pytest.approx(nll(valid) / valid.size, rel=1e-5)
    assert (summary["best_valid_loss"], summary["best_step"], summary["tokens_per_second"]) == (1.0, 2, 1000)
    assert summary["wall_seconds"] > 5.0 and summary["vocab_size"] == 5
    for name in ("loss.png", "horizon.png"):
        is_drawn_on(workdir / name)


def test_the_validation_text_is_not_scored_twice(prepared, params, monkeypatch):
    """The last evaluation was of the final parameters; of other steps, or without a figure, it is no use."""
    steps, split_figures = prepared.config.train.num_train_steps, evaluate.split_figures
    record = {"step": steps, "train_loss": 1.0, **evaluate.evaluate(prepared, params, steps)}
    expected, asked = split_figures(prepared, params, "valid"), []
    monkeypatch.setattr(report, "split_figures", lambda *args: asked.append(args) or split_figures(*args))
    for last, scored in (
        ([record], 0),
        ([{"step": 1}, json.loads(json.dumps(record))], 0),
        ([record | {"step": steps - 1}], 1),
        ([record | {"valid_perplexity": None}], 1),
        ([{"step": steps}], 1),
        ([], 1),
    ):
        found = report.valid_figures(prepared, Trained(params, last, Progress(), False, 0.0, None, None))
        assert found == expected and len(asked) == scored
        asked.clear()


def test_the_horizon_is_the_chain_s_k_th_power(concluded, prepared):
    """One step ahead from 30 origins nothing is sampled; far ahead the law of the symbols is left."""
    summary, valid = concluded[0], prepared.texts.ids["valid"]
    tokens_of = np.log(stationary_law(TABLE))[valid]
    assert summary["loss_at_64"] is None, "100 tokens have no horizon of 64"
    assert summary["loss_at_16"] == pytest.approx(-tokens_of[16:].mean(), abs=0.25)
    one_step = -np.log(TABLE[valid[:-1], valid[1:]]).mean()
    assert summary["loss_at_1"] == pytest.approx(one_step, abs=0.25)


def test_cells_of_an_ablation_have_the_figures_of_a_run(concluded, prepared, params):
    found, whole = report.figures(prepared, params), concluded[0]
    assert found == {name: whole[name] for name in found}
    assert {"valid_loss", "test_loss", "loss_at_4", "unigram_loss", "params_digest"} <= set(found)


def test_one_token_has_no_horizon(prepared, params):
    found = report.k_step_log_probs(cut_to(prepared, "valid", 1), params, jax.random.key(0))
    assert found.shape == (0, 0)


def test_the_table_has_what_knows_nothing_beside_the_model(tmp_path, prepared, params, capsys):
    short = cut_to(prepared, "valid", 8)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train_loss": 1.0, "valid_loss": 1.0}\n')
    report.conclude(short, tmp_path, Trained(params, [], Progress(), False, 0.0, None, None))
    said = capsys.readouterr().err
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line}
    assert float(rows["uniform"][0]) == pytest.approx(math.log(5), abs=5e-4)
    assert float(rows["unigram"][0]) == pytest.approx(report.unigram_figures(short)["loss"], abs=5e-4)
    assert any(name.endswith("-gram") for name in rows) and prepared.config.model.model in rows
    assert f"--run={tmp_path}" in said and "k steps ahead:  1: " in said


def test_of_a_long_text_a_sample_is_scored(prepared, params, capsys):
    """The losses are those of its tokens, each after what comes before it, with a standard error."""
    settings = dataclasses.replace(prepared.config, report=ReportConfig(score_tokens=80))
    sampled = prepared._replace(config=settings)
    found = evaluate.split_figures(sampled, params, "test")
    ids, part = prepared.texts.ids["test"], evaluate.scored_part(sampled, "test")
    counted = np.round(np.linspace(0, ids.size - 1, 80) - 0.5 + 1e-9).astype(int)
    expected = -sum(
        math.log(TABLE[ids[t - 1], ids[t]] if t else stationary_law(TABLE)[ids[0]]) for t in counted
    )
    assert (
        part.counted.sum() == found["test_tokens_scored"] == 80
        and 0 < found["test_loss_standard_error"] < 0.2
    )
    assert found["test_loss"] == pytest.approx(expected / 80, rel=1e-4)
    assert found["test_bits_per_char"] == pytest.approx(found["test_loss"] / math.log(2))
    whole = evaluate.split_figures(prepared, params, "test")
    assert set(whole) == {"test_loss", "test_perplexity", "test_bits_per_char"}
    assert abs(whole["test_loss"] - found["test_loss"]) < 4 * found["test_loss_standard_error"]
    losses = evaluate.split_figures(sampled, params, "valid")
    unigram = report.unigram_figures(sampled)
    counts, _ = report.best_counts(sampled)
    report._print_table(sampled, params, unigram, counts, losses, 0.0)
    assert "of a sample of 80 of 100 tokens, standard error 0." in capsys.readouterr().err
