"""What is measured and in which turn, that runtimes agree, what is said when one fails, and that no worker stays."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import sparsecse
from sparsecse.benchmarking import (
    PRECISIONS,
    RUNTIMES,
    BenchModel,
    BenchReport,
    BenchRow,
    RuntimeSpec,
    Setup,
    Skipped,
    benchmark,
    machine,
    versions,
)
from sparsecse.benchmarking.runtime_pytorch import reference
from sparsecse.benchmarking.runtimes import combinations, function
from sparsecse.benchmarking.worker import Worker
from sparsecse.cli import main
from sparsecse.cli.tables import skip_notes
from sparsecse.encoders import Encoder, EncoderSettings, SparseCSEConfig, SparseCSEModel, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.surgery import prune
from sparsecse.runtime.precision import available

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
    for name in ("recorder", "raises", "dies", "refuses", "exits", "wrong", "by_length"):
        monkeypatch.setitem(RUNTIMES, name, RuntimeSpec(f"fake_runtimes:load_{name}", ("float32",)))
    cannot = RuntimeSpec("fake_runtimes:load_recorder", PRECISIONS, convert="fake_runtimes:convert_refuses")
    monkeypatch.setitem(RUNTIMES, "cannot", cannot)
    monkeypatch.setitem(RUNTIMES, "absent", RuntimeSpec("nowhere:load", PRECISIONS, ("no_such_package",), "absent"))
    yield
    assert not multiprocessing.active_children()


def test_rows_of_two_models(dense, packed):
    report = benchmark([dense, packed], SENTENCES, runtimes=["pytorch"], batch_sizes=(1, 2), rounds=2, threads=1)
    assert [(row.batch_size, row.order, row.model) for row in report.rows] == [
        (batch_size, order, str(model))
        for batch_size in (1, 2)
        for order in ("given", "sorted")
        for model in (dense, packed)
    ]
    tokens = sum(len(sentence.split()) + 2 for sentence in SENTENCES)
    for row in report.rows:
        assert (row.runtime, row.precision) == ("pytorch", "float32")
        assert row.cosine == pytest.approx(1, abs=1e-6)
        assert row.tokens_per_second == pytest.approx(row.sentences_per_second * tokens / len(SENTENCES))
        assert 0 < row.p50_ms <= row.p95_ms
        assert len(row.round_seconds) == 2
        assert row.sentences_per_second == pytest.approx(len(SENTENCES) / min(row.round_seconds))
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
    assert content["skipped"] == []


def test_speedup_is_relative_to_the_first_row_of_the_same_batch_size_and_order():
    def row(model, runtime, batch_size, speed, order="given"):
        return BenchRow(model, runtime, "float32", batch_size, order, speed, speed, 1, 1, None, 1.0, 1, None, [1.0])

    rows = (
        row("a", "x", 1, 10),
        row("b", "x", 1, 15),
        row("a", "y", 1, 20),
        row("b", "y", 1, 30),
        row("a", "x", 1, 5, "sorted"),
        row("b", "y", 1, 20, "sorted"),
        row("a", "x", 2, 3),
        row("b", "x", 2, 9),
    )
    report = BenchReport(rows, 1, 1, {}, {}, "", {name: BenchModel(1, None, 1) for name in "ab"})
    assert [report.speedup(each) for each in rows] == [1, 1.5, 2, 3, 1, 4, 1, 3]


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
    rounds = iter([[0.5, 0.1, 0.4], [0.1, 0.5, 5.0]])
    monkeypatch.setattr(Worker, "time", lambda self, batch_size, order: next(rounds))
    (row,) = benchmark([dense], SENTENCES, runtimes=["recorder"], batch_sizes=[2], orders=["given"], rounds=2).rows
    assert row.sentences_per_second == pytest.approx(5 / 1.0)
    assert row.p50_ms == pytest.approx(300)  # of 500, 100, 100, 500
    assert row.p95_ms == pytest.approx(500)


def test_cosines_are_those_of_each_row(dense):
    encoder = load_encoder(dense)
    token_ids = encoder.tokenize(SENTENCES)
    expected = reference(encoder, token_ids)[:, :5]
    options = {"truncate_dim": 5}
    rows = benchmark([dense], SENTENCES, runtimes=["by_length"], batch_sizes=[2], rounds=1, load_options=options).rows
    found = torch.zeros(expected.shape)
    found[:, 0] = torch.tensor([len(ids) for ids in token_ids])
    found[:, 1] = torch.tensor([2, 2, 2, 2, 1])  # by length, too, it is the last sentence that is alone
    cosine = torch.cosine_similarity(found, torch.from_numpy(expected)).mean()
    assert [row.cosine for row in rows] == [pytest.approx(float(cosine), abs=1e-6)] * 2


SUPPORTED = [(runtime, precision) for runtime, spec in RUNTIMES.items() for precision in spec.precisions]


def embed(encoder: Encoder, runtime: str, precision: str, folder: Path, sentences) -> tuple[torch.Tensor, torch.Tensor]:
    """An encoder's vectors by a runtime, in this process, and by PyTorch in float32."""
    spec = RUNTIMES[runtime]
    if missing := spec.missing():
        pytest.skip(f"{missing[0]} is not installed")
    token_ids = encoder.tokenize(sentences)
    expected = reference(encoder, token_ids)
    source = folder / "source"
    source.mkdir()
    save_encoder(encoder, source)
    converted = folder / "converted"
    converted.mkdir()
    path = function(spec.convert)(encoder, precision, sentences, converted) if spec.convert else None
    loaded = function(spec.loader)(Setup(str(source), precision, torch.get_num_threads(), {}, path))
    vectors = loaded.encode_ids(token_ids)
    assert vectors.dtype == np.float32
    assert np.array_equal(reference(encoder, token_ids), expected)  # converting leaves the encoder as it was
    return torch.from_numpy(np.array(vectors)), torch.from_numpy(expected)


def assert_close(found: torch.Tensor, expected: torch.Tensor, precision: str) -> None:
    if precision == "float32":
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    else:
        # Without VNNI, ctranslate2's int8 sums saturate on some processors.
        assert torch.cosine_similarity(found, expected).min() > (0.999 if precision == "bfloat16" else 0.95)
        torch.testing.assert_close(found.norm(dim=-1), expected.norm(dim=-1), atol=0, rtol=0.1)


@pytest.mark.usefixtures("converted_once")
@pytest.mark.parametrize(("runtime", "precision"), SUPPORTED)
def test_a_runtime_agrees_with_the_encoder(shallow, sentences, tmp_path, runtime, precision):
    if runtime == "sparsecse" and precision not in available():
        pytest.skip(f"this processor does not compute {precision} natively")
    assert_close(*embed(shallow, runtime, precision, tmp_path, sentences), precision)


@pytest.mark.parametrize(
    ("runtime", "family", "pooling"),
    [
        *((runtime, "bert", "pooler") for runtime in ("sentence-transformers", "ctranslate2", "onnxruntime")),
        *((runtime, "roberta", "cls") for runtime in ("sentence-transformers", "ctranslate2", "openvino")),
    ],
)
def test_a_runtime_pools_as_the_encoder_does(checkpoints, sentences, tmp_path, runtime, family, pooling):
    encoder = load_encoder(checkpoints[family], pooling=pooling, normalize=False)
    assert_close(*embed(encoder, runtime, "float32", tmp_path, sentences), "float32")


def cut(encoder: Encoder, heads, neurons) -> Encoder:
    """The first heads and neurons of each layer."""
    sizes = encoder.model.config.layer_sizes()
    return prune(
        encoder,
        Mask(
            tuple(torch.arange(size) < kept for (size, _), kept in zip(sizes, heads, strict=True)),
            tuple(torch.arange(size) < kept for (_, size), kept in zip(sizes, neurons, strict=True)),
        ),
    )


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_ctranslate2_holds_a_portable_cut(bert, sentences, tmp_path, precision):
    smaller = cut(bert, (2, 2, 2), (23, 10, 7))
    assert_close(*embed(smaller, "ctranslate2", precision, tmp_path, sentences), precision)


@pytest.mark.parametrize(
    ("family", "pooling", "heads", "neurons", "message"),
    [
        ("bert", "mean", (4, 3, 4), (24, 24, 24), "layers differ in their number of heads"),
        ("bert", "mean", (4, 4, 4), (24, 0, 24), "lost all its heads or neurons"),
        ("bert", "first_last_avg", (4, 4, 4), (24, 24, 24), "first_last_avg"),
        ("mpnet", "mean", (4, 4, 4), (24, 24, 24), "relative attention biases"),
    ],
)
def test_ctranslate2_refuses_what_it_has_not(checkpoints, tmp_path, family, pooling, heads, neurons, message):
    encoder = cut(load_encoder(checkpoints[family], pooling=pooling), heads, neurons)
    with pytest.raises(InputError, match=message):
        function(RUNTIMES["ctranslate2"].convert)(encoder, "float32", [], tmp_path)


def test_peers_in_workers(dense):
    peers = ["pytorch", "onnxruntime", "ctranslate2"]
    report = benchmark([dense], SENTENCES, runtimes=peers, batch_sizes=[2], orders=["given"], rounds=1, threads=1)
    assert [(row.runtime, row.precision) for row in report.rows] == [(peer, "float32") for peer in peers]
    assert all(row.cosine > 0.9999 for row in report.rows)
    peak = {(row.runtime, row.precision): row.peak_rss_mb for row in report.rows}
    if sys.platform.startswith("linux"):  # neither torch nor the converters are in their memory
        assert peak["onnxruntime", "float32"] < 0.6 * peak["pytorch", "float32"]
        assert peak["ctranslate2", "float32"] < 0.6 * peak["pytorch", "float32"]
    assert {"onnxruntime", "ctranslate2"} <= set(report.versions)


def test_precisions_that_a_peer_has_not():
    pairs, skipped = combinations(["pytorch", "onnxruntime", "ctranslate2"], "all")
    assert [(one.runtime, one.precision) for one in skipped] == [
        ("pytorch", "int8"),
        ("onnxruntime", "bfloat16"),
        ("ctranslate2", "bfloat16"),
    ]
    assert {one.reason for one in skipped} == {"the runtime does not have this precision"}
    assert len(pairs) == 6


@pytest.mark.parametrize(
    ("runtimes", "precisions", "message"),
    [
        (["pytorch", "absent"], ["float32"], r"absent: the package no_such_package .*'sparsecse\[absent\]', or leave"),
        (["pytorch"], ["int8"], "`precisions` int8: the runtime pytorch does not have it; choose one of float32, bfl"),
    ],
)
def test_what_is_named_must_be_there(runtimes, precisions, message):
    with pytest.raises(InputError, match=message):
        combinations(runtimes, precisions)


def test_what_all_leaves_out(monkeypatch):
    monkeypatch.setattr("sparsecse.benchmarking.runtimes.RUNTIMES", dict(list(RUNTIMES.items())[-2:]))
    assert combinations("all", ["int8"])[0] == [("cannot", "int8")]
    (skipped,) = combinations("all", ["int8"])[1]
    assert (skipped.runtime, skipped.precision, skipped.model) == ("absent", None, None)
    assert skipped.reason.endswith("run pip install 'sparsecse[absent]'")


def test_a_model_that_a_runtime_cannot_hold(dense, log, monkeypatch):
    names = ("recorder", "refuses", "cannot")
    monkeypatch.setattr("sparsecse.benchmarking.runtimes.RUNTIMES", {name: RUNTIMES[name] for name in names})
    options = {"batch_sizes": [1], "orders": ["given"], "rounds": 1}
    report = benchmark([dense], SENTENCES, runtimes="all", **options)
    assert [row.runtime for row in report.rows] == ["recorder"]
    assert report.skipped == (
        Skipped("cannot", "float32", str(dense), f"{dense}: cannot be converted; take another one"),
        Skipped("refuses", "float32", str(dense), f"{dense}: not for this runtime; take another one"),
    )
    with pytest.raises(InputError, match="cannot be converted"):
        benchmark([dense], SENTENCES, runtimes=["recorder", "cannot"], **options)


def test_nothing_is_left_to_measure(dense, monkeypatch):
    monkeypatch.setattr("sparsecse.benchmarking.runtimes.RUNTIMES", {"cannot": RUNTIMES["cannot"]})
    with pytest.raises(InputError, match=r"No runtime can be measured: .* cannot be converted; take another one\.$"):
        benchmark([dense], SENTENCES, runtimes="all", batch_sizes=[1])


def test_notes_say_each_reason_once():
    lacks = "the runtime does not have this precision"
    entries = [
        ("openvino", None, None, "not installed"),
        ("ctranslate2", None, None, "not installed"),
        ("pytorch", "int8", None, lacks),
        ("onnxruntime", "bfloat16", None, lacks),
    ]
    report = {
        "skipped": [dict(zip(("runtime", "precision", "model", "reason"), entry, strict=True)) for entry in entries]
    }
    assert skip_notes(report) == [
        "Not installed: openvino, ctranslate2; pip install 'sparsecse[openvino,ctranslate2]'",
        f"Skipped pytorch int8, onnxruntime bfloat16: {lacks}",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runtimes", "pytorch", "--precision", "int8"], "--precision int8: the runtime pytorch does not have it"),
        (["--runtimes", "absent"], "pip install 'sparsecse[absent]'"),
        (["--precision", "float16"], "'float16' is not one of float32, bfloat16, int8"),
    ],
)
def test_command_line_refuses_in_one_sentence(dense, capsys, options, message):
    assert main(["bench", str(dense), *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err and len(output.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("raises", r"dense failed in the runtime raises \(ValueError: no such operator\); leave out"),
        ("dies", r"dense in the runtime dies: its process was killed by signal 9 \(Killed\); if memory ran out"),
        ("exits", r"dense in the runtime exits: its process ended unasked with exit code 3;"),
        ("refuses", r"dense: not for this runtime; take another one\.$"),
        ("wrong", r"dense in the runtime wrong, float32: its vectors are something else than numbers"),
    ],
)
def test_a_failing_worker_is_named(dense, log, runtime, message):
    with pytest.raises(InputError, match=message) as caught:
        benchmark([dense], SENTENCES, runtimes=["recorder", runtime], batch_sizes=[1])
    assert "\n" not in str(caught.value)
    assert ("in encode_ids" in str(caught.value.__cause__)) == (runtime == "raises")


def test_a_script_is_not_imported_by_its_workers(dense, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from sparsecse.benchmarking import benchmark\n"
        f"benchmark([{str(dense)!r}], ['red cat'], runtimes=['pytorch'], batch_sizes=[1], rounds=1)\n"
    )
    output = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert output.stdout == "once\n"


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
        "from sparsecse.benchmarking import RUNTIMES, RuntimeSpec, benchmark\n"
        "if __name__ == '__main__':\n"
        f"    sys.path.append({str(Path(__file__).parent)!r})\n"
        "    RUNTIMES['waits'] = RuntimeSpec('fake_runtimes:load_waits_for_interrupt', ('float32',))\n"
        f"    benchmark([{str(dense)!r}], ['red cat'], runtimes=['waits'], batch_sizes=[1])\n"
    )
    process = subprocess.Popen(
        [sys.executable, script],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
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
        ({"models": []}, "`models`: none given"),
        ({"models": ["a", "a"]}, "`models`: a is given twice"),
        ({"models": ["no/such/folder"]}, "no/such/folder is neither a folder"),
        ({"runtimes": []}, "`runtimes`: none given"),
        ({"runtimes": ["numpy"]}, "`runtimes`: 'numpy' is not one of pytorch, sentence-transformers, onnx"),
        ({"orders": ["random"]}, "`orders`: 'random' is not one of given, sorted"),
        ({"precisions": ["int4"]}, "`precisions`: 'int4' is not one of float32, bfloat16, int8"),
        ({"runtimes": ["pytorch"], "precisions": []}, "`precisions`: none given"),
        ({"batch_sizes": [0]}, "`batch_sizes` 0 is less than 1"),
        ({"batch_sizes": [1, 6]}, "`batch_sizes` 6 is more than the 5 sentences"),
        ({"sentences": []}, "`batch_sizes` 1 is more than the 0 sentences"),
        ({"rounds": 0}, "`rounds` 0 is less than 1"),
        ({"threads": 0}, "`threads` 0 is less than 1"),
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
