"""Packed folders as first-class checkpoints: storage types, stock form, layers, vocabulary, tools that use them."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import FAMILIES

from sparsecse.encoders import DTYPES, is_stock, load_encoder
from sparsecse.errors import InputError
from sparsecse.packing import CardFacts, count_parameters, pack, publication, push
from sparsecse.pruning.masks import Budget, keep_layers, select, select_portable
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import random


def packed(encoder, mask, out, dtype="float32"):
    smaller = prune(encoder, mask)
    sizes = encoder.model.config.layer_sizes()
    parameters = count_parameters(smaller.model)
    facts = CardFacts("tiny", sizes, mask.kept(), parameters, parameters, smaller.settings.pooling)
    return smaller, pack(smaller, out, facts, dtype=dtype)


def uneven(encoder):
    scores = random(encoder, 0)
    return select(scores, Budget.of(scores.sizes(), sparsity=0.4))


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "float32"])
def test_storage_types(encoder, sentences, tmp_path, dtype):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    smaller, info = packed(encoder, uneven(encoder), tmp_path / "packed", dtype)
    again = load_encoder(tmp_path / "packed")
    cosine = (again.encode(sentences) * smaller.encode(sentences)).sum(-1)
    assert cosine.min() > 0.98 and info["max_difference"] < 0.1
    packed(encoder, uneven(encoder), tmp_path / "full")
    size = {"float16": 0.55, "bfloat16": 0.55, "int8": 0.45}[dtype]  # of a tiny model scales and biases are a big part
    assert info["weights_bytes"] < size * (tmp_path / "full" / "model.safetensors").stat().st_size
    model = AutoModel.from_pretrained(tmp_path / "packed", dtype=torch.float32)
    assert all(p.is_floating_point() for p in model.parameters()) and model.config.weight_storage is None
    vectors = SentenceTransformer(str(tmp_path / "packed"), device="cpu").encode(sentences, convert_to_tensor=True)
    assert (torch.nn.functional.cosine_similarity(vectors.float(), smaller.encode(sentences)) > 0.98).all()


def test_int8_rounds_each_row_to_its_own_scale(bert, tmp_path):
    smaller, _ = packed(bert, uneven(bert), tmp_path / "packed", "int8")
    again = load_encoder(tmp_path / "packed")
    for name, tensor in smaller.model.state_dict().items():
        stored = again.model.state_dict()[name]
        if tensor.dim() == 2:
            step = tensor.abs().amax(dim=1, keepdim=True) / 127
            assert ((stored - tensor).abs() <= step * 0.5001 + 1e-9).all(), name
        else:
            assert stored.equal(tensor), name


@pytest.mark.parametrize("family", FAMILIES)
def test_portable_folders_are_stock_checkpoints(checkpoints, sentences, tmp_path, family):
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(checkpoints[family], pooling="mean", normalize=True)
    mask = select_portable(random(encoder, 0), 0.25)
    assert mask.kept() == [(4, 18)] * 3
    smaller, info = packed(encoder, mask, tmp_path / "packed")
    assert info["format"] == family and is_stock(smaller.model.config)
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["model_type"] == family and "auto_map" not in config
    assert not (tmp_path / "packed" / "modeling_sparsecse.py").exists()
    assert "trust_remote_code" not in (tmp_path / "packed" / "README.md").read_text()
    vectors = SentenceTransformer(str(tmp_path / "packed"), device="cpu").encode(sentences, convert_to_tensor=True)
    torch.testing.assert_close(vectors, smaller.encode(sentences), atol=1e-5, rtol=1e-5)


def test_layers_leave_as_a_whole(encoder, sentences, tmp_path):
    mask = keep_layers(None, encoder.model.config.layer_sizes(), [0, 2])
    smaller, info = packed(encoder, mask, tmp_path / "packed")
    assert smaller.model.config.num_hidden_layers == 2 and info["format"] == encoder.model.config.original_model_type
    dropped = encoder.model.encoder.layer[1]
    dropped.forward = lambda hidden, *_: hidden
    torch.testing.assert_close(smaller.encode(sentences), encoder.encode(sentences), atol=1e-6, rtol=1e-6)
    scores = random(encoder, 0).of_layers([0, 2])
    both = keep_layers(select(scores, Budget(3, 20)), encoder.model.config.layer_sizes(), [0, 2])
    assert sum(heads for heads, _ in both.kept()) == 5 and both.kept()[1] == (0, 0)
    both.save(tmp_path / "mask.safetensors")
    again = type(both).load(tmp_path / "mask.safetensors")
    assert again.kept_layers() == [0, 2] and again.kept() == both.kept()
    for wrong in ([], [2, 0], [0, 3], [1, 1]):
        with pytest.raises(InputError, match="`layers`"):
            keep_layers(None, encoder.model.config.layer_sizes(), wrong)


def test_the_first_layer_of_modernbert_leaves(checkpoints, sentences, tmp_path):
    encoder = load_encoder(checkpoints["modernbert"], pooling="mean", normalize=True)
    mask = keep_layers(None, encoder.model.config.layer_sizes(), [1, 2])
    smaller, info = packed(encoder, mask, tmp_path / "packed")
    assert info["format"] == "sparsecse"  # the stock class has no LayerNorm before the first attention
    assert smaller.model.config.attention_windows == [4, 4] and smaller.model.config.rotary_bases == [1e4, 1e4]
    encoder.model.encoder.layer[0].forward = lambda hidden, *_: hidden
    torch.testing.assert_close(smaller.encode(sentences), encoder.encode(sentences), atol=1e-6, rtol=1e-6)
    again = load_encoder(tmp_path / "packed")
    torch.testing.assert_close(again.encode(sentences), smaller.encode(sentences), atol=1e-6, rtol=1e-6)


def test_compile_checkpointing_dtype_and_device_map(bert, tmp_path):
    from transformers import AutoModel

    packed(bert, uneven(bert), tmp_path / "packed")
    model = AutoModel.from_pretrained(tmp_path / "packed").eval()
    ids = torch.randint(5, 40, (2, 9))
    mask = torch.ones_like(ids)
    expected = model(ids, attention_mask=mask).last_hidden_state
    compiled = torch.compile(model, fullgraph=True)(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-5)
    placed = AutoModel.from_pretrained(tmp_path / "packed", device_map="cpu").eval()
    torch.testing.assert_close(placed(ids, attention_mask=mask).last_hidden_state, expected)
    half = AutoModel.from_pretrained(tmp_path / "packed", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half(ids, attention_mask=mask).last_hidden_state.dtype == torch.bfloat16
    model.gradient_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in model.encoder.layer:
        if layer.attention.self is not None:
            layer.attention.self.dropout_prob = 0.0
    output = model(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    output.sum().backward()
    assert model.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0


def test_sentence_transformers_trains_saves_and_loads_a_packed_folder(bert, sentences, tmp_path):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    pytest.importorskip("accelerate")
    packed(bert, uneven(bert), tmp_path / "packed")
    model = SentenceTransformer(str(tmp_path / "packed"), device="cpu")
    before = model.encode(sentences, convert_to_tensor=True)
    data = Dataset.from_dict({"anchor": sentences, "positive": sentences[::-1]})
    arguments = Arguments(
        output_dir=str(tmp_path / "trained"),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(model, arguments, data, loss=MultipleNegativesRankingLoss(model)).train()
    model.eval()
    after = model.encode(sentences, convert_to_tensor=True)
    assert not torch.allclose(before, after, atol=1e-3)
    model.save_pretrained(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "modeling_sparsecse.py").exists()
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(sentences, convert_to_tensor=True)
    torch.testing.assert_close(again, after, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(load_encoder(tmp_path / "saved").encode(sentences), after, atol=1e-5, rtol=1e-5)


def test_what_would_be_pushed(bert, tmp_path, monkeypatch):
    packed(bert, uneven(bert), tmp_path / "packed")
    (tmp_path / "packed" / ".cache").write_text("not ours")
    facts = publication(tmp_path / "packed")
    paths = [file["path"] for file in facts["files"]]
    assert {"config.json", "model.safetensors", "README.md", "1_Pooling/config.json"} <= set(paths)
    assert ".cache" not in paths and facts["bytes"] == sum(file["bytes"] for file in facts["files"])
    with pytest.raises(InputError, match=r"has no config\.json"):
        publication(tmp_path)
    with pytest.raises(InputError, match=r"upload to someone/model failed|no Hugging Face access token"):
        push(tmp_path / "packed", "someone/model")
    with pytest.raises(InputError, match="not a repository id"):
        push(tmp_path / "packed", "not//a repo")

    calls = {}

    class Api:
        def create_repo(self, repo_id, **options):
            calls["created"] = (repo_id, options["private"])

        def upload_folder(self, **options):
            calls["uploaded"] = options["allow_patterns"]
            return type("Commit", (), {"commit_url": "https://hub/commit"})()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push(tmp_path / "packed", "someone/model", private=True) == "https://hub/commit"
    assert calls == {"created": ("someone/model", True), "uploaded": paths}
