"""What is measured and in which turn, what is said when a worker fails, and that none of them outlives the call."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import sparsecse
from sparsecse.benchmarking import RUNTIMES, BenchModel, BenchReport, BenchRow, Setup, benchmark, machine, versions
from sparsecse.benchmarking.pytorch import load_sentence_transformers, load_sparsecse
from sparsecse.benchmarking.worker import Worker
from sparsecse.encoders import Encoder, EncoderSettings, SparseCSEConfig, SparseCSEModel, load_encoder, save_encoder
from sparsecse.errors import InputError

WORDS = ("red", "blue", "cat", "dog", "sea", "hill", "runs", "sleeps")
SENTENCES = ["red cat", "dog runs sea hill", "blue", "red dog sleeps", "sea"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def write_model(folder: Path, intermediate_size: int) -> Path:
    config = SparseCSEConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        attention_head_size=8,
        intermediate_size=intermediate_size,
        max_position_embeddings=32,
    )
    settings = EncoderSettings(pooling="mean", normalize=True, max_length=16)
    folder.mkdir()
    save_encoder(Encoder(SparseCSEModel(config), tiny_tokenizer(), settings, "random"), folder)
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "dense", intermediate_size=32)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "packed", intermediate_size=8)


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "log"
    monkeypatch.setenv("SPARSECSE_TEST_LOG", str(path))
    return path


@pytest.fixture(autouse=True)
def fake_runtimes(monkeypatch):
    for name in ("recorder", "raises", "dies", "refuses", "exits"):
        monkeypatch.setitem(RUNTIMES, name, f"fake_runtimes:load_{name}")
    yield
    assert not multiprocessing.active_children()


def test_rows_of_two_models(dense, packed):
    report = benchmark([dense, packed], SENTENCES, batch_sizes=(1, 2), rounds=2, threads=1)
    assert [(row.batch_size, row.order, row.model) for row in report.rows] == [
        (batch_size, order, str(model))
        for batch_size in (1, 2)
        for order in ("given", "sorted")
        for model in (dense, packed)
    ]
    tokens = sum(len(sentence.split()) + 2 for sentence in SENTENCES)
    for row in report.rows:
        assert (row.runtime, row.precision) == ("sparsecse", "float32")
        assert row.tokens_per_second == pytest.approx(row.sentences_per_second * tokens / len(SENTENCES))
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.peak_rss_mb is not None and row.peak_rss_mb > 50
    first, second = report.models[str(dense)], report.models[str(packed)]
    assert first.parameters == sum(p.numel() for p in load_encoder(dense).model.parameters())
    assert first.bytes_on_disk == (dense / "model.safetensors").stat().st_size
    assert second.parameters < first.parameters
    assert second.bytes_on_disk == (packed / "model.safetensors").stat().st_size
    assert first.tokens == second.tokens == tokens

    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (content["sentences"], content["tokens"], content["rounds"]) == (len(SENTENCES), tokens, 2)
    assert content["machine"]["threads"] == 1
    assert content["versions"]["torch"] == torch.__version__
    assert content["models"][str(dense)]["parameters"] == content["rows"][0]["parameters"] == first.parameters
    assert content["rows"][0]["speedup"] == 1


def test_speedup_is_relative_to_the_first_model_in_the_same_setting():
    def row(model, runtime, batch_size, speed):
        return BenchRow(model, runtime, "float32", batch_size, "given", speed, speed, 1, 1, None, 1, None)

    rows = (
        row("a", "x", 1, 10),
        row("b", "x", 1, 15),
        row("a", "y", 1, 20),
        row("b", "y", 1, 10),
        row("a", "x", 2, 3),
        row("b", "x", 2, 9),
    )
    report = BenchReport(rows, 1, 1, {}, {}, "", {name: BenchModel(1, None, 1) for name in "ab"})
    assert [report.speedup(each) for each in rows] == [1, 1.5, 1, 0.5, 1, 3]


def test_workers_take_turns_and_get_exactly_the_batches(dense, packed, log, capfd):
    calls = []
    benchmark(
        [dense, packed],
        SENTENCES,
        runtimes=["recorder"],
        batch_sizes=[2],
        rounds=2,
        progress=lambda done, total: calls.append((done, total, len(log.read_text().splitlines()))),
    )
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    given = [[4, 6], [3, 5], [3]]
    by_length = [[6, 5], [4, 3], [3]]
    one_round = [[name, batch] for batches in (given, by_length) for name in ("dense", "packed") for batch in batches]
    assert seen == 3 * one_round  # the warm-up and two rounds
    assert calls == [(done, 12, 3 * done) for done in range(1, 13)]
    assert "noise" not in "".join(capfd.readouterr())


def test_partial_batches_count_for_the_throughput_only(dense, log, monkeypatch):
    rounds = iter([[9.0, 9.0, 9.0], [0.5, 0.1, 0.4], [0.1, 0.5, 5.0]])
    monkeypatch.setattr(Worker, "time", lambda self, batch_size, order: next(rounds))
    (row,) = benchmark([dense], SENTENCES, runtimes=["recorder"], batch_sizes=[2], orders=["given"], rounds=2).rows
    assert row.sentences_per_second == pytest.approx(5 / 1.0)
    assert row.p50_ms == pytest.approx(300)  # of 500, 100, 100, 500
    assert row.p95_ms == pytest.approx(500)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_runtimes_agree_with_the_encoder(dense, precision):
    encoder = load_encoder(dense)
    token_ids = encoder.tokenize(SENTENCES)
    expected = encoder.encode_ids(token_ids)
    setup = Setup(str(dense), precision, torch.get_num_threads(), {})
    tolerance = 1e-5 if precision == "float32" else 0.05
    for load in (load_sparsecse, load_sentence_transformers):
        vectors = load(setup).encode_ids(token_ids).float()
        torch.testing.assert_close(vectors, expected, atol=tolerance, rtol=0)


def test_sentence_transformers_in_a_worker(dense):
    report = benchmark(
        [dense],
        SENTENCES,
        runtimes=["sparsecse", "sentence-transformers"],
        batch_sizes=[1],
        orders=["given"],
        rounds=1,
        precision="bfloat16",
    )
    assert [row.runtime for row in report.rows] == ["sparsecse", "sentence-transformers"]
    assert {row.precision for row in report.rows} == {"bfloat16"}
    assert "sentence-transformers" in report.versions


def test_sentence_transformers_missing(dense, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install 'sparsecse\[st\]'"):
        load_sentence_transformers(Setup(str(dense), "float32", 1, {}))


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("raises", r"dense failed in the runtime raises \(ValueError: no such operator\); leave out"),
        ("dies", r"dense in the runtime dies: its process was killed by signal 9 \(Killed\); if memory ran out"),
        ("exits", r"dense in the runtime exits: its process ended unasked with exit code 3;"),
        ("refuses", r"dense: not for this runtime; take another one\.$"),
    ],
)
def test_a_failing_worker_is_named(dense, log, runtime, message):
    with pytest.raises(InputError, match=message) as caught:
        benchmark([dense], SENTENCES, runtimes=["recorder", runtime], batch_sizes=[1])
    assert "\n" not in str(caught.value)
    assert ("in encode_ids" in str(caught.value.__cause__)) == (runtime == "raises")


def test_an_interrupt_ends_the_workers(dense, log):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark([dense], SENTENCES, runtimes=["recorder"], batch_sizes=[1], progress=interrupt)
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_control_c_while_a_worker_is_busy(dense, log, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from sparsecse.benchmarking import RUNTIMES, benchmark\n"
        "if __name__ == '__main__':\n"
        f"    sys.path.append({str(Path(__file__).parent)!r})\n"
        "    RUNTIMES['waits'] = 'fake_runtimes:load_waits_for_interrupt'\n"
        f"    benchmark([{str(dense)!r}], ['red cat'], runtimes=['waits'], batch_sizes=[1])\n"
    )
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (log.exists() and log.read_text()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.count("Traceback") == 1 and "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "models: none given"),
        ({"models": ["a", "a"]}, "models: a is given twice"),
        ({"models": ["no/such/folder"]}, "no/such/folder is neither a folder"),
        ({"runtimes": []}, "--runtimes: none given"),
        ({"runtimes": ["numpy"]}, "--runtimes: 'numpy' is not one of sparsecse, sentence-transformers"),
        ({"orders": ["random"]}, "--orders: 'random' is not one of given, sorted"),
        ({"precision": "int4"}, "--precision: 'int4' is not one of float32, bfloat16"),
        ({"batch_sizes": [0]}, "--batch-sizes: 0 is less than 1"),
        ({"batch_sizes": [1, 6]}, "--batch-sizes: 6 is more than the 5 sentences"),
        ({"sentences": []}, "--batch-sizes: 1 is more than the 0 sentences"),
        ({"rounds": 0}, "--rounds: 0 is less than 1"),
        ({"threads": 0}, "--threads: 0 is less than 1"),
    ],
)
def test_bad_input(monkeypatch, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = {"models": ["a"], "sentences": SENTENCES, "batch_sizes": [1], **options}
    with pytest.raises(InputError, match=message):
        benchmark(**arguments)


def test_machine_and_versions():
    assert machine()["cpu"]
    assert machine()["cores"] >= 1
    found = versions(["pytest", "no-such-package"])
    assert set(found) == {"python", "sparsecse", "torch", "transformers", "pytest"}
    assert found["sparsecse"] == sparsecse.__version__


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM")
def test_peak_memory_is_not_the_parents():
    code = "from sparsecse.benchmarking.machine import peak_rss_mb; print(peak_rss_mb())"
    ballast = bytearray(os.urandom(1 << 20) * 300)
    peak = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 5 < peak < len(ballast) / (1 << 20)


def test_a_worker_imports_no_more_than_its_runtime_needs():
    code = "import sparsecse.benchmarking, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
