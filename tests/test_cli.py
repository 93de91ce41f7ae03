"""The command line: JSON alone on standard output, one sentence and exit code 2 on bad input, options as documented."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import pytest

from sparsecse.cli import finetune, main, run, train
from sparsecse.encoders import POOLING_MODES
from sparsecse.errors import InputError
from sparsecse.scoring import METHODS
from sparsecse.sources import ModelOptions


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARSECSE_WORKDIR", raising=False)
    monkeypatch.delenv("SPARSECSE_DATA_DIR", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def scored(call, sentence_folder, pairs_file):
    assert call("score", sentence_folder, "--data", pairs_file)[0] == 0
    return call


def test_the_stages_one_by_one(scored, sentences, tmp_path):
    code, out, err = scored("prune", "--sparsity", "0.25")
    assert code == 0 and "of 72" not in out and "parameters stay" in out and "next: sparsecse" in err
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    options = ["--steps", "2", "--train-batch-size", "4", "--eval-every", "1", "--json", "--matryoshka-dims", "32,20"]
    code, out, err = scored("finetune", "--data", "text.txt", *options)
    record = json.loads(out)
    assert code == 0 and record["info"]["steps"] == 2 and "dev" in err
    assert record["settings"]["training"]["matryoshka_dims"] == [32, 20]
    code, out, _ = scored("eval", "--tasks", "demo-test", "--json", "--truncate-dim", "20")
    result = json.loads(out)
    assert code == 0 and result["stage"] == "finetune"
    assert set(result["tasks"]["demo-test"]) >= {"spearman", "pairs"}
    assert {"average", "alignment", "uniformity"} <= set(result) and "tasks" in result["dense"]
    code, out, _ = scored("pack", "--out", "packed", "--truncate-dim", "20")
    assert code == 0 and (tmp_path / "packed" / "modeling_sparsecse.py").exists()
    assert "| demo-test |" in (tmp_path / "packed" / "README.md").read_text()
    assert scored("pack", "--out", "whole")[0] == 0
    assert "| demo-test |" not in (tmp_path / "whole" / "README.md").read_text()  # measured at another width
    code, out, _ = scored("eval", "packed", "--tasks", "demo-test", "--json")
    assert code == 0 and json.loads(out)["average"] == pytest.approx(result["average"], abs=1e-6)
    code, out, _ = scored("inspect", "--json")
    assert set(json.loads(out)["stages"]) == {"score", "prune", "finetune", "eval-dense", "eval", "pack"}
    code, out, _ = scored("inspect", "packed", "--json")
    facts = json.loads(out)
    assert facts["truncate_dim"] == 20
    assert facts["family"] == "bert" and facts["pruned"] and sum(x["heads"] for x in facts["layers"]) == 9
    assert "finetune" in scored("inspect")[1] and "layer" in scored("inspect", "packed")[1]


@pytest.mark.parametrize("objective", ["moco", "byol", "distill=1,moco=0.1"])
def test_training_a_dense_model_with_other_families(call, sentence_folder, pairs_file, sentences, tmp_path, objective):
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    steps = ["--steps", "4", "--train-batch-size", "4", "--eval-every", "1", "--queue-size", "5", "--momentum", "0.9"]
    teacher = ["--teacher", sentence_folder, "--teacher", sentence_folder]
    options = ["--objective", objective, "--dev", pairs_file, "--json", *steps]
    if "distill" in objective:
        options += teacher
    else:
        code, _, err = call("train", sentence_folder, "--data", "text.txt", *options, *teacher)
        assert code == 2 and f"--teacher is for --objective distill; {objective} has none" in err
    code, out, err = call("train", sentence_folder, "--data", "text.txt", *options)
    record = json.loads(out)
    assert code == 0 and record["info"]["steps"] == 4
    training = record["settings"]["training"]
    assert (training["queue_size"], training["momentum"], training["mlp_head"]) == (5, 0.9, True)
    assert ("Embedding with the teacher: 16 of 16" in err) == ("distill" in objective)
    code, out, _ = call("eval", "sparsecse-run/train/model", "--tasks", "demo-test", "--json")
    assert code == 0 and "average" in json.loads(out)


def test_repair_with_graded_pairs_stops_when_dev_says_so(scored, pairs_file, tmp_path):
    rows = pairs_file.read_text().splitlines()
    (tmp_path / "graded.tsv").write_text("\n".join([*rows, "the cat\tthe mat\t1.5"]))
    assert scored("prune", "--sparsity", "0.25")[0] == 0
    options = ["--objective", "graded=1,distill=1", "--train-batch-size", "4", "--eval-every", "1"]
    # A rate that changes nothing: no dev score is better than the first.
    options += ["--steps", "20", "--patience", "2", "--learning-rate", "1e-30"]
    code, out, err = scored("finetune", "--data", "graded.tsv", *options)
    assert code == 0 and "2 of 20 steps on 7 examples" in out and "which stays as it was" in out
    assert "Fine-tuning: 2 of 2" in err
    code, _, err = scored("finetune", "--data", pairs_file, *options)
    assert code == 2 and "pairs that --objective graded trains on" in err
    (tmp_path / "ungraded.csv").write_text("sentence1,sentence2\nthe cat,a cat\nthe dog,a dog\n")
    code, _, err = scored("finetune", "--data", "ungraded.csv", *options)
    assert code == 2 and "has no gold scores for --objective graded" in err


def test_run_takes_every_training_option(call, sentence_folder, pairs_file, sentences, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    options = [
        "--objective",
        "unsup",
        "--temperature",
        "0.1",
        "--patience",
        "1",
        "--steps",
        "3",
        "--warmup-ratio",
        "0.2",
    ]
    options += ["--train-batch-size", "4", "--eval-every", "1", "--tasks", "demo-test", "--no-bench", "--json"]
    data = ["--data", pairs_file, "--train-data", "text.txt", "--sparsity", "0.25"]
    code, out, _ = call("run", sentence_folder, *data, *options)
    training = json.loads(out)["finetune"]["settings"]["training"]
    assert code == 0
    assert [training[name] for name in ("temperature", "patience", "warmup_ratio")] == [0.1, 1, 0.2]


def test_the_commands_that_train_share_options_and_have_their_own_defaults():
    repair = {"objective": "distill", "learning_rate": 2e-4, "warmup_ratio": 0.1, "eval_every": 50, "mlp_head": False}
    dense = {"objective": "unsup", "learning_rate": 3e-5, "warmup_ratio": 0.0, "eval_every": 125, "mlp_head": True}
    for command, wanted in ((train.train, dense), (finetune.finetune, repair), (run.run, repair)):
        parameters = inspect.signature(command).parameters
        assert {name: parameters[name].default for name in wanted} == wanted
        assert "training" not in parameters


def test_score_prints_what_is_lowest_in_each_layer(scored, sentence_folder, pairs_file):
    code, out, err = scored("score", sentence_folder, "--data", pairs_file)
    assert code == 0 and "already has these scores" in err
    header = next(line for line in out.splitlines() if line.startswith("layer"))
    assert header.split() == [
        "layer",
        "heads",
        "1%",
        "5%",
        "10%",
        "20%",
        "50%",
        "neurons",
        "1%",
        "5%",
        "10%",
        "20%",
        "50%",
    ]
    rows = [line.split() for line in out.splitlines() if line[:1].isdigit()]
    assert len(rows) == 3
    assert sum(int(row[6]) for row in rows) == 6 and sum(int(row[12]) for row in rows) == 36
    assert "uniformity" in out


def test_bench_prints_rows(call, sentence_folder):
    options = ["--sentences", "4", "--batch-sizes", "2", "--orders", "given", "--rounds", "1", "--threads", "1"]
    code, out, _ = call("bench", sentence_folder, *options, "--json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    wanted = "model runtime precision batch_size order sentences_per_second tokens_per_second p50_ms p95_ms peak_rss_mb"
    assert set(row) >= set(wanted.split())
    assert row["runtime"] == "sparsecse" and row["sentences_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "nowhere", "--data", "demo"], "nowhere is neither a folder"),
        (["score", "--data", "demo"], "Missing argument MODEL"),
        (["score", "{model}", "--data", "nothing.tsv"], "nothing.tsv"),
        (["score", "{model}", "--data", "{pairs}", "--columns", "a,b,c"], "sentence1"),
        (["score", "{model}", "--data", "empty.tsv"], "empty.tsv"),
        (["score", "{model}", "--data", "stsb", "--data-dir", "."], "--data-dir"),
        (["score", "{model}", "--data", "demo", "--method", "best"], "--method 'best'"),
        (["score", "{model}", "--data", "demo", "--lambda", "2"], "--lambda 2"),
        (["score", "{model}", "--data", "demo", "--group-size", "0"], "--group-size 0"),
        (["score", "{model}", "--data", "demo", "--precision", "half"], "--precision 'half'"),
        (["score", "{model}", "--data", "demo", "--workdir", "empty.tsv"], "empty.tsv is a file"),
        (["prune", "--sparsity", "0.2"], "sparsecse score"),
        (["prune", "--sparsity", "many"], "--sparsity"),
        (["pack"], "sparsecse prune"),
        (["eval"], "sparsecse prune"),
        (["inspect"], "is no run directory"),
        (["eval", "{model}", "--tasks", "glue"], "glue"),
        (["eval", "{model}", "--device", "tpu"], "--device 'tpu'"),
        (["eval", "{model}", "--device", "cuda:99"], "--device cuda:99"),
        (["bench", "{model}", "--runtimes", "warp"], "warp"),
        (["bench", "{model}", "--batch-sizes", "0"], "--batch-sizes 0"),
        (["finetune", "--data", "demo"], "sparsecse prune"),
        (["inspect", "{model}", "--truncate-dim", "33"], "--truncate-dim 33 is outside 1 to 32"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(call, sentence_folder, pairs_file, tmp_path, arguments, message):
    (tmp_path / "empty.tsv").write_text("sentence1\tsentence2\tscore\n")
    filled = [a.format(model=sentence_folder, pairs=pairs_file) for a in arguments]
    code, out, err = call(*filled)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    if "Usage:" not in err:
        assert len(err.strip().splitlines()) == 1


def test_a_bad_call_harms_nothing_on_disk(scored, tmp_path):
    assert scored("prune", "--sparsity", "0.25")[0] == 0
    before = {p: p.read_bytes() for p in sorted((tmp_path / "sparsecse-run").rglob("*")) if p.is_file()}
    assert scored("prune", "--sparsity", "1.5")[0] == 2
    scores = tmp_path / "sparsecse-run" / "score" / "scores.safetensors"
    whole = scores.read_bytes()
    scores.write_bytes(whole[:200])
    code, _, err = scored("prune", "--sparsity", "0.5")
    assert code == 2 and "damaged or changed since 'score' wrote it (scores.safetensors)" in err
    scores.write_bytes(whole)
    after = {p: p.read_bytes() for p in sorted((tmp_path / "sparsecse-run").rglob("*")) if p.is_file()}
    assert after == before


def test_debug_shows_the_traceback(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sparsecse",
        "--debug",
        "prune",
        "--sparsity",
        "0.1",
        "--workdir",
        str(tmp_path / "no"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr and "InputError" in done.stderr


@pytest.mark.parametrize("name", METHODS)
def test_every_scoring_method(call, sentence_folder, pairs_file, tmp_path, name):
    options = ["--lambda", "0.4", "--seed", "3", "--group-size", "9", "--precision", "float32", "--json"]
    code, out, _ = call("score", sentence_folder, "--data", pairs_file, "--method", name, *options)
    record = json.loads(out)
    assert code == 0 and record["settings"]["method"] == name
    given = {"seed": 3, "group_size": 9, "precision": "float32"}
    recorded = {option: record["settings"][option] for option in given if option in record["settings"]}
    assert recorded == {option: value for option, value in given.items() if option in METHODS[name].uses}
    weight = record["settings"].get("objective", {}).get("alignment_weight")
    assert weight == (0.4 if "objective" in METHODS[name].uses else None)
    assert ("leave-one-out.jsonl" in record["outputs"]) == METHODS[name].resumes
    assert call("prune", "--sparsity", "0.25")[0] == 0


@pytest.mark.parametrize(("data", "tasks"), [("demo", "demo"), ("stsb", "sts")])
def test_run_evaluates_what_goes_with_the_data(call, monkeypatch, sentence_folder, data, tasks):
    planned = []

    def stop(workdir, plan, **_):
        planned.append(plan.tasks)
        raise InputError("Stopped.")

    monkeypatch.setattr("sparsecse.stages.run", stop)
    assert call("run", sentence_folder, "--data", data)[0] == 2 and planned == [tasks]


@pytest.mark.parametrize("command", ["score", "run"])
def test_help_names_every_scoring_method(call, command):
    code, out, _ = call(command, "--help")
    text = re.sub(r"[\s│|]+", "", out)
    assert code == 0
    for name, method in METHODS.items():
        assert re.sub(r"[\s|]+", "", f"{name}: {method.description}") in text


def test_help_is_quick_and_names_every_pooling(call):
    code = "import sys; from sparsecse.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    text = ModelOptions.__dataclass_fields__["pooling"].metadata["setting"].help
    assert text.endswith(f"{', '.join(POOLING_MODES)}.")
    code, out, _ = call("--version")
    assert code == 0 and out.startswith("sparsecse ")
