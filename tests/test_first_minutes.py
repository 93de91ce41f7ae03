"""What a new user meets in the first ten minutes: files that others can read, names that are found, plain messages."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from huggingface_hub import metadata_load
from rich.console import Console
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparsecse.cli import main, output
from sparsecse.cli.tables import BenchTable
from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.evaluation import load_tasks
from sparsecse.files import atomic_directory, atomic_file, weight_bytes
from sparsecse.packing import CardFacts, model_card, pack, source_license
from sparsecse.progress import duration
from sparsecse.training import StepReport
from sparsecse.vocabulary import choose_vocabulary, count_tokens
from sparsecse.vocabulary.scripts import lost_scripts, scripts_warning, tokens_in


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
def umask():
    """Sets the umask; the old one comes back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(("mask", "wanted"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_follow_the_umask(umask, sentence_folder, tmp_path, mask, wanted):
    umask(mask)
    with atomic_file(tmp_path / "one.safetensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
    with atomic_directory(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        save_file({"x": torch.zeros(2)}, folder / "inner" / "two.safetensors")
    pack(load_encoder(sentence_folder), tmp_path / "packed")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"one.safetensors", "two.safetensors", "model.safetensors"} <= {path.name for path in files}
    assert {path.name: oct(mode(path)) for path in files if mode(path) != wanted} == {}
    assert mode(tmp_path / "folder" / "inner") == 0o777 & ~mask


def test_inspect_and_bench_agree_on_the_bytes(call, sentence_folder, tmp_path):
    shutil.copytree(sentence_folder, tmp_path / "model")
    (tmp_path / "model" / "onnx").mkdir()
    (tmp_path / "model" / "onnx" / "model.onnx").write_bytes(b"x" * 1000)
    _, out, _ = call("inspect", "model", "--json")
    options = ["--sentences", "4", "--batch-sizes", "2", "--orders", "given", "--rounds", "1", "--threads", "1"]
    code, bench, _ = call("bench", "model", *options, "--json")
    assert code == 0
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert json.loads(out)["bytes_on_disk"] == json.loads(bench)["models"]["model"]["bytes_on_disk"] == weights
    assert weight_bytes(tmp_path / "nowhere") is None
    assert f"{weights:,}" in call("inspect", "model")[1]


def test_the_sets_names_are_tasks(call, sentence_folder, tmp_path):
    folder = tmp_path / "downstream" / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    rows = ["g\tf\ty\t0\t4.5\tthe cat\ta cat", "g\tf\ty\t1\t1.0\tthe dog\ta bird", "g\tf\ty\t2\t3.0\tthe hill\ta hill"]
    (folder / "sts-test.csv").write_text("\n".join(rows) + "\n")
    assert list(load_tasks("STSB,stsb-test", data_dir=tmp_path).pairs) == ["stsb-test"]
    code, out, _ = call("eval", sentence_folder, "--tasks", "stsb", "--data-dir", tmp_path, "--json")
    assert code == 0 and list(json.loads(out)["tasks"]) == ["stsb-test"]
    sick = tmp_path / "downstream" / "SICK"
    sick.mkdir()
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    (sick / "SICK_test_annotated.txt").write_text(
        f"{header}\n1\tthe cat\ta cat\t4.5\tNEUTRAL\n2\ta dog\ta bird\t1\tNEUTRAL\n"
    )
    assert list(load_tasks("sickr", data_dir=tmp_path).pairs) == ["sickr-test"]


@pytest.mark.parametrize(("wrong", "meant"), [("sts-b", "stsb"), ("sickr-tst", "sickr-test"), ("transfr", "transfer")])
def test_an_unknown_task_gets_a_suggestion(wrong, meant):
    with pytest.raises(InputError, match=rf"no task '{wrong}'.*Did you mean {meant}\?"):
        load_tasks(wrong)
    with pytest.raises(InputError, match=r"the known ones are [^?]*\.$"):
        load_tasks("glue")


def test_a_study_says_beforehand_that_there_will_be_no_plot(call, sentence_folder, pairs_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["--data", pairs_file, "--tasks", "demo-test", "--sparsities", "0.5"]
    code, _, err = call("study", "lambda", sentence_folder, *options)
    lines = err.splitlines()
    assert code == 0 and lines[0].startswith("No plot will be drawn") and 'pip install "sparsecse[plot]"' in lines[0]
    assert sum("plot" in line for line in lines) == 1
    assert not list(tmp_path.rglob("*.png")) and list(tmp_path.rglob("lambda.md"))


def bench_report(models: list[str], runtimes: list[str]) -> dict:
    rows = [
        {
            "model": model,
            "runtime": runtime,
            "precision": "float32",
            "batch_size": batch_size,
            "order": order,
            "sentences_per_second": 12345.6,
            "tokens_per_second": 234567.8,
            "p50_ms": 1234.5,
            "p95_ms": 2345.6,
            "peak_rss_mb": 1234.5,
            "cosine": 0.99999,
            "speedup": 12.34,
        }
        for batch_size in (1, 32)
        for order in ("given", "sorted")
        for runtime in runtimes
        for model in models
    ]
    return {"rows": rows, "sentences": 256, "tokens": 4893, "machine": {"threads": 2}}


@pytest.mark.parametrize("runtimes", [["sparsecse"], ["pytorch", "sentence-transformers", "sparsecse"]])
@pytest.mark.parametrize("models", [["dense", "finetune"], ["all-MiniLM-L6-v2", "minilm-20"]])
@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_bench_table_fits_the_terminal(models, runtimes, width):
    report = bench_report(models, runtimes)
    stream = io.StringIO()
    Console(file=stream, width=width, soft_wrap=True).print(BenchTable(report))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    figures = ["12346", "234568", "1234.5", "2345.6", "1234", "0.99999", "12.34x"]
    assert sum(line.split()[-7:] == figures for line in lines) == len(report["rows"])
    assert sum("speedup" in line and "cosine" in line for line in lines) == 1
    for name in (*models, *runtimes, "float32", "given", "sorted"):
        assert any(name in line for line in lines)
    assert len(lines) == {160: 2 + len(report["rows"])}.get(width, len(lines))


def test_prompts_that_are_not_used_are_said_once(call, sentence_folder, pairs_file, tmp_path):
    shutil.copytree(sentence_folder, tmp_path / "e5")
    path = tmp_path / "e5" / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings |= {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": None}
    path.write_text(json.dumps(settings))
    said = "prompts: query, passage; none used"
    for command in (
        ["eval", "e5", "--tasks", "demo-test"],
        ["score", "e5", "--data", pairs_file, "--method", "magnitude"],
    ):
        assert call(*command)[2].count(said) == 1, command
        assert "prompts" not in call(*command, "--prompt", "query: ", "--workdir", "other")[2]
        assert "prompts" not in call(*command, "--prompt", "", "--workdir", "third")[2]
    assert call("prune", "--sparsity", "0.25")[0] == 0
    assert call("eval", "--tasks", "demo-test")[2].count(said) == 1
    out = call("inspect", "e5")[1]
    assert out.count("query, passage; none used") == 1
    path.write_text(json.dumps(settings | {"default_prompt_name": "query"}))
    assert "query, passage; query used" in call("inspect", "e5")[1]
    assert "prompts" not in call("eval", "e5", "--tasks", "demo-test")[2]
    assert "prompts" not in call("inspect", sentence_folder)[1]


def test_run_tells_its_stages_as_they_begin(call, sentence_folder, pairs_file, sentences, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    options = ["--data", pairs_file, "--train-data", "text.txt", "--sparsity", "0.25", "--steps", "2"]
    options += ["--train-batch-size", "4", "--tasks", "demo-test", "--no-bench"]
    code, _, err = call("run", sentence_folder, *options)
    lines = err.splitlines()
    assert code == 0 and lines[0] == f"Loading {sentence_folder}"
    names = ["score", "prune", "finetune", "eval", "pack"]
    told = [line for line in lines if line.startswith("Stage ")]
    assert told == [f"Stage {number} of 5: {name}" for number, name in enumerate(names, 1)]
    assert lines.index("Stage 3 of 5: finetune") < next(
        place for place, line in enumerate(lines) if line.startswith("Embedding with the teacher: ")
    )
    assert all(any(line.startswith(f"{name}: ") and line.endswith(" s") for line in lines) for name in names)
    lines = call("run", sentence_folder, *options)[2].splitlines()
    assert [f"{name}: already there" in lines for name in names] == [True] * 5
    lines = call("run", sentence_folder, *options, "--no-finetune")[2].splitlines()
    assert "Stage 3 of 4: eval" in lines


def test_loading_is_told_before_torch_is_imported(tmp_path):
    code = (
        "import sys\n"
        "from sparsecse.cli import main, run\n"
        "run.set_threads = lambda threads: sys.exit(7 if 'torch' not in sys.modules else 1)\n"
        "main(['run', 'demo', '--data', 'demo'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 7 and done.stderr.splitlines() == ["Loading demo"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_count_from_the_start_of_their_stage(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    screen = Console(file=Screen(), width=100)
    monkeypatch.setattr(output, "err", screen)
    monkeypatch.setattr(output, "_display", output._Display())
    times = output.StageTimes()
    step = output.step_progress("Fine-tuning", times.progress)
    times.begin("score", 1, 2)
    now += 500
    times.begin("finetune", 2, 2)
    now += 40
    step(StepReport(1, 2, 0.5, None, None))
    now += 25
    step(StepReport(2, 2, 0.5, None, None))
    assert times.end() == {"score": 500, "finetune": 65}
    assert "0:01:05" in screen.file.getvalue() and "0:09" not in screen.file.getvalue()


def test_plain_lines_tell_the_time_left(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(output, "err", Console(file=io.StringIO()))
    monkeypatch.setattr(output, "_display", output._Display())
    update = output.progress("Embedding")
    for seconds, done in ((500, 100), (5, 110), (20, 200), (3575, 1000)):
        now += seconds
        update(done, 1000)
    assert output.err.file.getvalue().splitlines() == [
        "Embedding: 100 of 1000",
        "Embedding: 200 of 1000, about 3 minutes left",
        "Embedding: 1000 of 1000",
    ]
    said = {1: "1 second", 89: "89 seconds", 100: "2 minutes", 5399: "90 minutes", 7200: "2 hours", 9000: "2.5 hours"}
    assert {seconds: duration(seconds) for seconds in said} == said


@pytest.mark.parametrize(
    ("form", "package", "pooled"), [("onnx", "onnxruntime", True), ("openvino", "openvino", False)]
)
def test_export_names_the_call_that_loads_it(call, sentence_folder, tmp_path, form, package, pooled):
    for needed in {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("openvino",)}[form]:
        pytest.importorskip(needed)
    options = ["--pooled"] if pooled else []
    code, _, err = call("export", sentence_folder, "--format", form, "--out", "out", *options)
    said = re.search(r"^(\S+\(.*\)) loads it; its output (\w+) is the (sentence|token) vectors", err, re.MULTILINE)
    assert code == 0 and said is not None and said[3] == ("sentence" if pooled else "token")
    loaded = eval(said[1], {package: importlib.import_module(package)})
    if form == "onnx":
        assert [each.name for each in loaded.get_outputs()] == [said[2]]
    else:
        assert said[2] in loaded.output().names


@pytest.mark.parametrize("portable", [False, True])
def test_pack_names_the_calls_that_load_it(call, sentence_folder, pairs_file, sentences, portable):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    assert call("score", sentence_folder, "--data", pairs_file, "--method", "magnitude")[0] == 0
    assert call("prune", "--sparsity", "0.25", *(["--portable"] if portable else []))[0] == 0
    code, _, err = call("pack", "--out", "packed")
    first, second = re.search(r"^(\S.*\)) and (.*\)) load it$", err, re.MULTILINE).groups()
    assert code == 0 and (("trust_remote_code" in first), ("trust_remote_code" in second)) == (not portable,) * 2
    names = {"SentenceTransformer": SentenceTransformer, "AutoModel": AutoModel}
    vectors, model = eval(first, names).encode(sentences), eval(second, names)
    np.testing.assert_allclose(vectors, load_encoder("packed").encode(sentences).numpy(), atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in load_encoder("packed").model.parameters()
    )


def test_the_card_names_base_model_licence_and_what_was_removed(call, sentence_folder, pairs_file, tmp_path):
    shutil.copytree(sentence_folder, tmp_path / "my-bert")
    terms = {"license": "other", "license_name": "mine: all", "license_link": "https://example.org/terms"}
    header = "\n".join(f"{name}: {json.dumps(value)}" for name, value in terms.items())
    (tmp_path / "my-bert" / "README.md").write_text(f"---\nlanguage: en\n{header}\n---\n\n# My BERT\n")
    assert call("score", "my-bert", "--data", pairs_file, "--method", "magnitude")[0] == 0
    assert call("prune", "--sparsity", "0.25")[0] == 0
    assert call("pack", "--out", "packed")[0] == 0
    card = tmp_path / "packed" / "README.md"
    metadata = metadata_load(card)
    assert metadata is not None and metadata.items() >= {"base_model": "my-bert", **terms}.items()
    assert metadata["library_name"] == "sentence-transformers" and "pruning" in metadata["tags"]
    assert "\n# my-bert, 25% of the heads and 25% of the neurons removed\n" in card.read_text()


def test_cards_without_licence_and_of_other_cuts(sentence_folder, tmp_path):
    assert source_license(str(sentence_folder)) == {}
    for text in ("# no header\n", "---\nlicense: [mit\n---\n", "---\nlicense: [mit, gpl]\n---\n", "---\n- x\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert source_license(str(tmp_path)) == {}
    facts = CardFacts("owner/name", [(4, 24)] * 3, [(4, 24)] * 2, 10, 20, "mean", tokens=(75, 100))
    text = model_card(facts, "packed")
    assert "\n# name, 33% of the heads, 33% of the neurons and 25% of the tokens removed\n" in text
    assert "\nbase_model: owner/name\ntags:" in text and "| 1 | 4 | 24 |" in text and "75 of 100 tokens" in text
    whole = CardFacts("name", [(4, 24)], [(4, 24)], 10, 10, "mean")
    assert "\n# name, nothing removed\n" in model_card(whole, "packed")


RUSSIAN = [
    "кошка",
    "сидела",
    "на",
    "коврике",
    "старая",
    "собака",
    "бежала",
    "через",
    "холм",
    "красная",
    "птица",
    "громко",
    "поёт",
    "новый",
    "дом",
    "стоит",
    "над",
    "рекой",
]


def bilingual_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with Russian words."""
    tokenizer = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    letters = {letter for word in RUSSIAN for letter in word}
    for piece in (*RUSSIAN, *sorted(letters), *(f"##{letter}" for letter in sorted(letters))):
        vocabulary.setdefault(piece, len(vocabulary))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


def byte_level_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


@pytest.mark.parametrize("make", [bilingual_tokenizer, lambda: byte_level_tokenizer([*RUSSIAN, *conftest.WORDS])])
def test_scripts_that_a_corpus_leaves_out(make, sentences):
    tokenizer = make()

    def lost(lines: list[str]) -> tuple[list[str], list[str]]:
        counts = count_tokens(tokenizer, lines).total
        return lost_scripts(tokenizer, counts, choose_vocabulary(tokenizer, counts))

    assert lost(sentences) == (["Latin"], ["Cyrillic"])
    assert lost([" ".join(RUSSIAN)]) == (["Cyrillic"], ["Latin"])
    assert lost([*sentences, " ".join(RUSSIAN)])[1] == []
    assert scripts_warning(["Latin"], []) is None
    warning = scripts_warning(["Latin"], ["Cyrillic", "Arabic", "Cjk", "Greek", "Thai"])
    assert warning is not None and "in Cyrillic, Arabic, Cjk and 2 others" in warning and warning.count(".") == 1


@pytest.mark.parametrize("make", [bilingual_tokenizer, lambda: byte_level_tokenizer([*RUSSIAN, *conftest.WORDS])])
def test_all_tokens_of_a_script_can_be_kept(make):
    tokenizer = make()
    vocabulary = tokenizer.get_vocab()
    latin, cyrillic = (tokens_in(tokenizer, [script]) for script in ("latin", "Cyrillic"))
    assert tokens_in(tokenizer, ("cyrillic", "LATIN")) >= latin | cyrillic
    for text, ids in (("the cat sat on the mat", latin), (" ".join(RUSSIAN), cyrillic)):
        own = set(tokenizer(text, add_special_tokens=False)["input_ids"]) - {vocabulary.get("[UNK]")}
        assert own <= ids and len(own) > 3
    assert not {vocabulary[word] for word in ("cat",) if word in vocabulary} & cyrillic
    with pytest.raises(InputError, match=r"`vocab_scripts` klingon: .* cyrillic, .*latin"):
        tokens_in(tokenizer, ["klingon", "latin"])


def test_a_vocabulary_in_one_of_several_scripts_warns(call, monkeypatch, sentences, sentence_folder, tmp_path):
    monkeypatch.setattr(conftest, "tiny_tokenizer", bilingual_tokenizer)
    conftest.write_checkpoint(tmp_path / "bilingual", "bert")
    (tmp_path / "corpus.txt").write_text("\n".join(sentences * 3))
    said = "Warning: The corpus is in Latin alone, but the tokenizer also has words in Cyrillic"
    code, _, err = call("prune", "bilingual", "--vocab", "corpus.txt", "--pooling", "mean")
    assert code == 0 and err.count(said) == 1
    code, _, err = call("prune", sentence_folder, "--vocab", "corpus.txt", "--workdir", "other")
    assert code == 0 and "Warning" not in err
    options = ("--vocab", "corpus.txt", "--pooling", "mean", "--vocab-scripts", "cyrillic")
    code, _, err = call("prune", "bilingual", *options, "--workdir", "both")
    assert code == 0 and "Warning" not in err


@pytest.mark.slow
def test_an_english_tokenizer_with_letters_of_every_script_does_not_warn(minilm, sentences):
    tokenizer = load_encoder(minilm).tokenizer
    counts = count_tokens(tokenizer, sentences).total
    assert lost_scripts(tokenizer, counts, choose_vocabulary(tokenizer, counts)) == (["Latin"], [])
