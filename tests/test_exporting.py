"""Exported models compute what the torch model does, land where tools look, and leave nothing when they fail."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import SENTEVAL, needs_senteval, tiny_tokenizer, write_checkpoint

from sparsecse import disk
from sparsecse.datasets import PairSet, load_pairs
from sparsecse.encoders import Encoder, EncoderSettings, SparseCSEConfig, SparseCSEModel, load_encoder, save_encoder
from sparsecse.encoders.pooling import POOLING_MODES
from sparsecse.errors import InputError
from sparsecse.evaluation import spearman
from sparsecse.exporting import export_onnx, export_openvino
from sparsecse.exporting.graph import trace
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.surgery import prune
from sparsecse.runtime import Runtime

pytestmark = pytest.mark.usefixtures("converted_once")
EXPORTS = {"onnx": export_onnx, "openvino": export_openvino}


def export_to(form: str):
    """The export function of a format, where its packages are installed."""
    for package in {"onnx": ("onnxscript", "onnxruntime"), "openvino": ("openvino",)}[form]:
        pytest.importorskip(package)
    return EXPORTS[form]


@pytest.fixture(params=EXPORTS)
def export(request):
    """Each export function in turn."""
    return export_to(request.param)


def uneven(encoder: Encoder) -> Encoder:
    """Layer 0 with some heads and no neurons, layer 1 with some neurons and no heads, layer 2 empty."""
    some_heads, some_neurons = torch.tensor([True, False, True, True]), torch.arange(24) % 3 > 0
    none = torch.zeros(24, dtype=torch.bool)
    return prune(encoder, Mask((some_heads, none[:4], none[:4]), (none, some_neurons, none)))


def run(report, encoder: Encoder, sentences: list[str]) -> torch.Tensor:
    """Unit sentence vectors by the runtime of the format, opened anew, in float32 arithmetic."""
    path = report.paths[0]
    if report.format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        assert [each.name for each in session.get_outputs()] == [output_name(report)]

        def call(inputs):
            return session.run(None, inputs)[0]
    else:
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        names = [each.any_name for each in compiled.inputs]

        def call(inputs):
            return compiled(inputs)[output_name(report)]

    input_ids, mask = encoder.collate(encoder.tokenize(sentences))
    every = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(input_ids)}
    found = torch.from_numpy(call({name: every[name].numpy() for name in names}))
    if not report.pooled:
        weights = mask.unsqueeze(-1)
        found = (found * weights).sum(dim=1) / weights.sum(dim=1)
    return F.normalize(found, dim=-1)


USUAL_POOLING = {"cls", "mean", "max", "weightedmean", "lasttoken"}


def output_name(report) -> str:
    return "sentence_embedding" if report.pooled else "last_hidden_state"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("form", "encoder"),
    [
        *(("onnx", family) for family in ("mpnet", "gemma3_text")),
        ("openvino", "modernbert"),
        pytest.param("onnx", "roberta", marks=pytest.mark.nightly),
        pytest.param("onnx", "modernbert", marks=pytest.mark.nightly),
        pytest.param("openvino", "bert", marks=pytest.mark.nightly),
    ],
    indirect=["encoder"],
)
def test_uneven_layers_of_families_that_differ(form, encoder, sentences, tmp_path):
    small = uneven(encoder)
    report = export_to(form)(small, tmp_path / "out")
    assert report.max_difference < 1e-5
    assert report.cosine_minimum == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(run(report, small, sentences), small.encode(sentences), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("onnx", mode) for mode in ("max", "weightedmean", "lasttoken")),
        ("openvino", "max"),
        *(pytest.param("onnx", mode, marks=pytest.mark.nightly) for mode in sorted({*POOLING_MODES} - USUAL_POOLING)),
    ],
)
def test_pooling_inside_the_graph(form, shallow_checkpoint, sentences, tmp_path, mode):
    encoder = load_encoder(shallow_checkpoint, pooling=mode, normalize=False)
    report = export_to(form)(encoder, tmp_path / "out", pooled=True)
    expected = F.normalize(encoder.encode(sentences), dim=-1)
    torch.testing.assert_close(run(report, encoder, sentences), expected, atol=1e-5, rtol=0)


def test_a_part_of_the_vectors(shallow_checkpoint, sentences, tmp_path):
    pytest.importorskip("onnxruntime")
    encoder = load_encoder(shallow_checkpoint, pooling="mean", normalize=True, truncate_dim=8)
    expected = F.normalize(encoder.encode(sentences), dim=-1)
    report = export_onnx(encoder, tmp_path / "out", pooled=True)
    torch.testing.assert_close(run(report, encoder, sentences), expected, atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "out/config_sentence_transformers.json").read_text())["truncate_dim"] == 8
    with pytest.raises(InputError, match="keeps 32 values of a vector, and the export has `truncate_dim` 8"):
        export_onnx(encoder, shallow_checkpoint)


def test_relative_positions_up_to_the_last_bucket(tmp_path):
    export = export_to("onnx")
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = SparseCSEConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        attention_head_size=8,
        intermediate_size=24,
        max_position_embeddings=302,
        type_vocab_size=0,
        position_offset=2,
        relative_attention_num_buckets=32,
        original_model_type="mpnet",
        initializer_range=0.5,
        pad_token_id=1,
    )
    encoder = Encoder(SparseCSEModel(config), tokenizer, EncoderSettings("cls", True, 300), "mpnet-like").eval()
    assert export(encoder, tmp_path / "out").max_difference < 1e-5


def test_bare_encoder_is_exported_whatever_its_state(shallow, sentences, tmp_path):
    expected = shallow.encode(sentences)
    shallow.train().bfloat16()
    report = export_to("onnx")(shallow, tmp_path / "out")
    assert shallow.training and shallow.model.dtype == torch.bfloat16
    # Rounded weights, float32 arithmetic.
    assert float((run(report, shallow, sentences) * expected).sum(dim=-1).min()) > 0.99


def test_a_new_folder_loads_without_torch_weights(shallow, tmp_path, export):
    report = export(shallow, tmp_path / "new" / "out")
    folder = tmp_path / "new" / "out"
    assert report.bytes == sum(path.stat().st_size for path in report.paths)
    assert json.loads(json.dumps(report.to_json()))["paths"] == [str(path) for path in report.paths]
    assert {"config.json", "tokenizer.json", "modules.json", "1_Pooling", report.format} <= set(left(folder))
    assert not list(folder.rglob("*.safetensors"))
    assert left(tmp_path / "new") == ["out"]
    assert report.paths[0].relative_to(folder) == Path(
        {"onnx": "onnx/model.onnx", "openvino": "openvino/openvino_model.xml"}[report.format]
    )


def test_both_formats_in_one_folder(shallow, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    export_onnx(shallow, tmp_path / "out")
    export_openvino(shallow, tmp_path / "out", pooled=True)
    assert {"onnx", "openvino"} <= set(left(tmp_path / "out"))
    assert left(tmp_path / "out" / "openvino") == ["openvino_model_pooled.bin", "openvino_model_pooled.xml"]
    other = load_encoder(write_checkpoint(tmp_path / "other", "bert", seed=1), pooling="mean", normalize=True)
    before = (tmp_path / "out/onnx/model.onnx").read_bytes()
    with pytest.raises(InputError, match="does not hold the model"):
        export_onnx(other, tmp_path / "out")
    assert (tmp_path / "out/onnx/model.onnx").read_bytes() == before


def test_beside_the_weights_and_again(shallow, tmp_path, export):
    folder = tmp_path / "packed"
    folder.mkdir()
    save_encoder(shallow, folder)
    before = left(folder)
    encoder = load_encoder(folder)
    first, second = export(encoder, folder), export(encoder, folder)
    assert first.paths == second.paths  # OpenVINO numbers its nodes on, so the bytes differ
    assert left(folder) == sorted([*before, first.format, "export.json"])
    assert sorted(path.name for path in first.paths) == left(folder / first.format)


def test_token_types_only_where_the_tokenizer_gives_them(shallow, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shallow.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    report = export_onnx(shallow, tmp_path / "out")
    model = onnx.load(report.paths[0])
    assert [each.name for each in model.graph.input] == ["input_ids", "attention_mask"]
    assert str(Path(__file__).parents[1]).encode() not in report.paths[0].read_bytes()


def test_weights_too_large_for_one_file(shallow, sentences, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("sparsecse.exporting.onnx_format._EXTERNAL_BYTES", 0)
    report = export_onnx(shallow, tmp_path / "out")
    assert [path.name for path in report.paths] == ["model.onnx", "model.onnx_data"]
    torch.testing.assert_close(run(report, shallow, sentences), shallow.encode(sentences), atol=1e-5, rtol=0)


def test_int8_and_bfloat16(bert, sentences, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nncf")
    small = uneven(bert)
    reports = [
        export_onnx(small, tmp_path / "out", precision="int8"),
        export_openvino(small, tmp_path / "out", precision="bfloat16"),
        export_openvino(small, tmp_path / "out", precision="int8", calibration=sentences, tolerance=0.3),
    ]
    expected = small.encode(sentences)
    for report, bound in zip(reports, (0.99, 0.999, 0.9), strict=True):
        assert report.cosine_minimum < 1
        assert float((run(report, small, sentences) * expected).sum(dim=-1).min()) > bound
    assert [report.paths[0].stem for report in reports] == [
        "model_qint8_quantized",
        "openvino_model_bfloat16",
        "openvino_model_qint8_quantized",
    ]


def test_above_tolerance_leaves_nothing(shallow, tmp_path, export):
    with pytest.raises(InputError, match="does not compute what the torch model does"):
        export(shallow, tmp_path / "out", tolerance=0.0)
    assert left(tmp_path) == []


def test_unsupported_operator(shallow, tmp_path, export, capsys, monkeypatch):
    monkeypatch.setattr("sparsecse.exporting.export.trace", trace)  # the weights are those of models traced before
    shallow.model.encoder.layer[0].intermediate.activation = BesselActivation()
    with pytest.raises(InputError, match=r"operator \w+\.\w*bessel_j0 is not supported") as caught:
        export(shallow, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []
    assert capsys.readouterr().out == ""


class BesselActivation(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_full_disk_leaves_nothing(shallow, tmp_path, monkeypatch, export):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def broken_stream(model, target, **options):  # what OpenVINO does on a full disk
        Path(target).write_text("<net")
        raise RuntimeError("basic_ios::clear: iostream error")

    if export is export_onnx:
        monkeypatch.setattr("onnx_ir.save", full)
    else:
        monkeypatch.setattr("openvino.save_model", broken_stream)
    with pytest.raises(InputError, match=r"out cannot be written .*make room"):
        export(shallow, tmp_path / "out")
    assert left(tmp_path) == []


def test_a_failed_move_keeps_the_old_export(shallow, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    report = export_onnx(shallow, tmp_path / "out")
    before = report.paths[0].read_bytes()

    rename = disk.rename

    def refuse(source, target):
        if target.parent.name == "onnx":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, target)

    monkeypatch.setattr(disk, "rename", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        export_onnx(shallow, tmp_path / "out", precision="int8")
    assert left(tmp_path / "out" / "onnx") == ["model.onnx"]
    assert report.paths[0].read_bytes() == before
    assert not [name for name in left(tmp_path / "out") if name.startswith(".")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder(bert, tmp_path, export):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match=r"cannot be written .*Permission denied"):
        export(bert, tmp_path / "locked" / "out")


@pytest.mark.parametrize(
    ("package", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino"), ("nncf", "openvino")]
)
def test_missing_package(bert, tmp_path, monkeypatch, package, extra):
    for other in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"):
        monkeypatch.setitem(sys.modules, other, None if other == package else sys)
    options = {"precision": "int8", "calibration": ["a cat"]} if package == "nncf" else {}
    with pytest.raises(InputError, match=rf"package {package}.*pip install 'sparsecse\[{extra}\]'"):
        EXPORTS[extra](bert, tmp_path / "out", **options)


def test_bad_arguments(bert, checkpoints, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nncf")
    with pytest.raises(InputError, match="bfloat16 is not one of onnx's; choose one of float32, int8"):
        export_onnx(bert, tmp_path / "out", precision="bfloat16")
    with pytest.raises(InputError, match="opset 11 is older than 18"):
        export_onnx(bert, tmp_path / "out", opset=11)
    with pytest.raises(InputError, match="needs calibration sentences"):
        export_openvino(bert, tmp_path / "out", precision="int8")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        export_onnx(bert, tmp_path / "file")
    with pytest.raises(InputError, match="is not empty and does not hold"):
        export_onnx(bert, tmp_path)
    averaging = load_encoder(checkpoints["bert"], pooling="first_last_avg")
    with pytest.raises(InputError, match="first_last_avg, which needs the first layer"):
        export_onnx(averaging, tmp_path / "out")
    assert left(tmp_path) == ["file"]


def test_sentence_transformers_backend(bert, sentences, tmp_path, export):
    try:  # optimum's packages fail to import under a transformers that is newer than they are
        __import__("optimum.onnxruntime" if export is export_onnx else "optimum.intel.openvino")
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        pytest.skip(f"sentence-transformers' backend is not usable here: {error}")
    small = uneven(bert)
    report = export(small, tmp_path / "out")
    options = {} if export is export_onnx else {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    model = SentenceTransformer(str(tmp_path / "out"), backend=report.format, model_kwargs=options)
    found = torch.from_numpy(model.encode(sentences))
    torch.testing.assert_close(found, small.encode(sentences), atol=1e-5, rtol=0)


class Exported:
    """An exported model as evaluation wants it."""

    def __init__(self, report, encoder):
        self.report, self.encoder = report, encoder

    def encode(self, sentences, *, batch_size):
        return run(self.report, self.encoder, sentences)


@pytest.mark.slow
def test_a_pruned_minilm_within_a_ten_thousandth(minilm, tmp_path):
    encoder = load_encoder(minilm)
    torch.manual_seed(0)
    heads = [torch.rand(12) > 0.2 for _ in range(6)]
    neurons = [torch.rand(1536) > 0.2 for _ in range(6)]
    heads[2], heads[5], neurons[4], neurons[5] = (
        heads[2] & False,
        heads[5] & False,
        neurons[4] & False,
        neurons[5] & False,
    )
    small = prune(encoder, Mask(tuple(heads), tuple(neurons)))
    assert export_to("onnx")(small, tmp_path / "small", pooled=True).max_difference < 1e-4


@pytest.mark.slow
@pytest.mark.nightly  # minutes, which the versions of the tools decide
@needs_senteval
def test_minilm_int8_keeps_stsb(minilm, tmp_path, export):
    pytest.importorskip("nncf")
    encoder = load_encoder(minilm)
    options = {"precision": "int8", "pooled": True}
    if export is export_openvino:
        lines = (SENTEVAL / "downstream/STS/STSBenchmark/sts-train.csv").read_text(encoding="utf-8").splitlines()
        options["calibration"] = [line.split("\t")[5] for line in lines[::20]][:300]
    report = export(encoder, tmp_path / "out", **options)
    pairs = load_pairs("stsb", split="test", data_dir=SENTEVAL)
    some = PairSet("some", "test", pairs.first[::8], pairs.second[::8], pairs.scores[::8], None, "stsb")
    assert abs(spearman(Exported(report, encoder), some) - spearman(Runtime(encoder, "float32"), some)) < 0.5
