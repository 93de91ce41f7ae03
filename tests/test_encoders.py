"""Encoders: every family gives transformers' own outputs, settings come from the folder, bad folders are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES, WITHOUT_POOLER, distilbert_twin, roberta_twin, tiny_tokenizer, write_checkpoint
from folders.build import change
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from sparsecse.encoders import POOLING_MODES, fingerprint, is_stock, load_encoder, save_encoder
from sparsecse.errors import InputError
from sparsecse.pruning.masks import Budget, select
from sparsecse.pruning.surgery import prune
from sparsecse.scoring import random


def stock_outputs(folder, sentences):
    tokens = tiny_tokenizer()(sentences, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        outputs = AutoModel.from_pretrained(folder).eval()(**tokens, output_hidden_states=True)
    return outputs, tokens["attention_mask"].unsqueeze(-1).float()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", list(POOLING_MODES))
def test_vectors_are_those_of_transformers(checkpoints, sentences, family, pooling):
    if family in WITHOUT_POOLER and pooling == "pooler":
        pytest.skip("the family has no pooler")
    outputs, mask = stock_outputs(checkpoints[family], sentences)
    last = outputs.last_hidden_state
    position = mask.cumsum(1) * mask
    expected = {
        "mean": lambda: (last * mask).sum(1) / mask.sum(1),
        "cls": lambda: last[:, 0],
        "pooler": lambda: outputs.pooler_output,
        "first_last_avg": lambda: ((outputs.hidden_states[1] + last) / 2 * mask).sum(1) / mask.sum(1),
        "max": lambda: last.masked_fill(mask == 0, -torch.inf).max(1).values,
        "mean_sqrt_len_tokens": lambda: (last * mask).sum(1) / mask.sum(1).sqrt(),
        "weightedmean": lambda: (last * position).sum(1) / position.sum(1),
        "lasttoken": lambda: last[torch.arange(len(last)), mask.sum(1).squeeze(1).long() - 1],
    }[pooling]()
    vectors = load_encoder(checkpoints[family], pooling=pooling).encode(sentences, batch_size=3)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", list(POOLING_MODES))
def test_packed_vectors_and_gradients_are_those_of_padded_ones(checkpoints, sentences, family, pooling):
    if family in WITHOUT_POOLER and pooling == "pooler":
        pytest.skip("the family has no pooler")
    encoder = load_encoder(checkpoints[family], pooling=pooling).eval()
    # A text may name special tokens; RoBERTa and MPNet do not count the padding token as a position.
    token_ids = [*encoder.tokenize([*sentences, "the [PAD] cat [SEP] sat"]), [0, 2]]
    padded = encoder(*encoder.collate(token_ids))
    packed = encoder.forward_packed(encoder.pack(token_ids))
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    parameters = [p for name, p in encoder.named_parameters() if "pooler" not in name or pooling == "pooler"]
    upstream = torch.randn(padded.shape)
    wanted = torch.autograd.grad(padded, parameters, upstream)
    for gradient, want in zip(torch.autograd.grad(packed, parameters, upstream), wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-4, rtol=1e-3)


def test_batches_hold_the_tokens_of_average_sentences(bert, sentences):
    token_ids = bert.tokenize(sentences)
    lengths = [len(ids) for ids in token_ids]
    for batch_size in (1, 2, 3, 100):
        seen = []
        for rows, batch in bert.batches(token_ids, batch_size):
            assert len(batch) == len(rows)
            assert batch.cu_lengths.diff().tolist() == [lengths[row] for row in rows]
            assert batch.input_ids.tolist() == [token for row in rows for token in token_ids[row]]
            assert len(rows) == 1 or len(batch.input_ids) <= batch_size * sum(lengths) / len(lengths) + 1
            seen += rows.tolist()
        assert sorted(seen) == list(range(len(sentences)))
        assert [lengths[row] for row in seen] == sorted(lengths, reverse=True)
    assert list(bert.batches([], 4)) == []


def test_a_vector_does_not_depend_on_its_batch(encoder, sentences):
    alone = torch.cat([encoder.encode([sentence]) for sentence in sentences])
    torch.testing.assert_close(encoder.encode(sentences), alone, atol=1e-5, rtol=1e-5)
    assert encoder.encode([]).shape == (0, 32)


@pytest.mark.parametrize("pooling", [p for p in POOLING_MODES if p != "pooler"])
@pytest.mark.parametrize("stock", [True, False])
def test_round_trip_of_every_family(encoder, sentences, tmp_path, pooling, stock):
    source = load_encoder(encoder.source, pooling=pooling, normalize=True, max_length=20)
    save_encoder(source, tmp_path, stock=stock)
    again = load_encoder(tmp_path)
    assert again.settings == source.settings
    assert fingerprint(again) == fingerprint(source)
    assert is_stock(again.model.config)
    torch.testing.assert_close(again.encode(sentences), source.encode(sentences), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("pooling", list(POOLING_MODES))
@pytest.mark.parametrize("stock", [True, False])
def test_sentence_transformers_gives_the_same_vectors(checkpoints, sentences, tmp_path, pooling, stock):
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(checkpoints["bert"], pooling=pooling, normalize=True)
    save_encoder(encoder, tmp_path, stock=stock)
    vectors = SentenceTransformer(str(tmp_path), device="cpu").encode(sentences, convert_to_tensor=True)
    torch.testing.assert_close(vectors, encoder.encode(sentences), atol=1e-5, rtol=1e-5)
    assert load_encoder(tmp_path).settings.pooling == pooling


def test_twins_of_other_families_compute_the_same(checkpoints, sentences, tmp_path):
    vectors = load_encoder(checkpoints["bert"], pooling="mean").encode(sentences)
    for make in (roberta_twin, distilbert_twin):
        twin = load_encoder(make(tmp_path / make.__name__, checkpoints["bert"]), pooling="mean")
        torch.testing.assert_close(twin.encode(sentences), vectors, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        (
            "modernbert",
            {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "global_attn_every_n_layers": 2},
        ),
        (
            "modernbert",
            {"num_attention_heads": 2, "intermediate_size": 40, "local_attention": 5, "hidden_activation": "silu"},
        ),
        (
            "modernbert",
            {"layer_types": ["sliding_attention"] * 2, "num_hidden_layers": 2, "tie_word_embeddings": False},
        ),
        ("qwen3", {"num_attention_heads": 6, "head_dim": 16, "attention_bias": True, "rms_norm_eps": 1e-3}),
        ("qwen3", {"num_key_value_heads": 1, "hidden_act": "gelu", "rope_theta": 100.0}),
        ("qwen3", {"num_key_value_heads": 4, "intermediate_size": 40, "head_dim": 2}),
        (
            "gemma3_text",
            {"num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16, "attention_bias": True},
        ),
    ],
)
def test_rotary_families_of_any_shape_and_length(tmp_path, family, changes):
    folder = write_checkpoint(tmp_path / "model", family, max_position_embeddings=2200, **changes)
    encoder = load_encoder(folder, pooling="mean", max_length=2200)
    rows = [torch.randint(5, 84, (length,)) for length in (1, 2, 9, 33, *([2049] if "mlp_bias" in changes else []))]
    vectors = encoder.encode_ids(rows)
    for attention in ("eager", "sdpa"):
        stock = AutoModel.from_pretrained(folder, attn_implementation=attention).eval()
        for row, vector in zip(rows, vectors, strict=True):
            with torch.no_grad():
                expected = stock(row[None]).last_hidden_state.mean(1)[0]
                padded = encoder.model(row[None]).last_hidden_state.mean(1)[0]
            torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(padded, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "kind"), [("modernbert", AutoModelForMaskedLM), ("qwen3", AutoModelForCausalLM)])
def test_language_models(checkpoints, sentences, tmp_path, family, kind):
    kind.from_pretrained(checkpoints[family]).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    expected = load_encoder(checkpoints[family], pooling="mean").encode(sentences)
    torch.testing.assert_close(load_encoder(tmp_path, pooling="mean").encode(sentences), expected)


@pytest.mark.parametrize(("family", "epsilon"), [("bert", "layer_norm_eps"), ("qwen3", "rms_norm_eps")])
def test_a_fingerprint_covers_what_no_tensor_holds(checkpoints, tmp_path, family, epsilon):
    folder = shutil.copytree(checkpoints[family], tmp_path / "model")
    found = {fingerprint(load_encoder(folder, pooling="lasttoken"))}
    for name, changes in (
        ("config.json", {epsilon: 0.1}),
        ("config.json", {"hidden_act": "relu"}),
        ("tokenizer.json", {"post_processor": None}),  # no more [SEP], whose vector was taken
    ):
        change(folder / name, changes)
        found.add(fingerprint(load_encoder(folder, pooling="lasttoken")))
    assert len(found) == 4


def test_a_sentence_without_tokens_has_no_vector(bert):
    with pytest.raises(InputError, match="a sentence has no tokens"):
        bert.pack([[0, 7, 2], []])


def test_every_word_learns_where_no_token_is_padding(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["qwen3"], tmp_path / "model")
    change(folder / "config.json", {"pad_token_id": None})
    encoder, stock = load_encoder(folder, pooling="mean"), AutoModel.from_pretrained(folder).eval()
    encoder.forward_packed(encoder.pack([[7, 0, 8, 0]])).square().sum().backward()
    stock(torch.tensor([[7, 0, 8, 0]])).last_hidden_state.mean(1).square().sum().backward()
    found, wanted = encoder.model.get_input_embeddings().weight.grad, stock.get_input_embeddings().weight.grad
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_qwen3_padded_on_the_left(checkpoints, sentences, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = shutil.copytree(checkpoints["qwen3"], tmp_path / "dense")
    change(folder / "tokenizer_config.json", {"padding_side": "left"})
    encoder = load_encoder(folder, pooling="lasttoken")
    vectors = encoder.encode(sentences)
    tokens = encoder.tokenizer(sentences, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert tokens["attention_mask"][:, 0].min() == 0
    with torch.no_grad():
        for model in (AutoModel.from_pretrained(folder).eval(), encoder.model):
            torch.testing.assert_close(model(**tokens).last_hidden_state[:, -1], vectors, atol=1e-5, rtol=1e-5)
    encoder.settings = replace(encoder.settings, normalize=True, prompts={"query": "the old "})
    smaller = prune(encoder, select(random(encoder, 1), Budget(6, 20)))
    (tmp_path / "small").mkdir()
    save_encoder(smaller, tmp_path / "small")
    expected = smaller.encode(sentences, prompt_name="query")
    model = SentenceTransformer(str(tmp_path / "small"), device="cpu")
    found = model.encode(sentences, prompt_name="query", convert_to_tensor=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert load_encoder(tmp_path / "small").settings == smaller.settings


def test_pooling_is_never_guessed(checkpoints):
    with pytest.raises(InputError, match=r"`pooling`.*mean, cls, pooler, first_last_avg"):
        load_encoder(checkpoints["bert"])
    with pytest.raises(InputError, match="'median' is not a pooling mode"):
        load_encoder(checkpoints["bert"], pooling="median")
    assert load_encoder(checkpoints["bert"], pooling="cls_before_pooler").settings.pooling == "cls"


def test_a_missing_pooler_is_not_made_up(tmp_path):
    source = write_checkpoint(tmp_path / "bert", "bert")
    model = AutoModelForMaskedLM.from_pretrained(source)
    model.save_pretrained(tmp_path / "mlm")
    tiny_tokenizer().save_pretrained(tmp_path / "mlm")
    assert load_encoder(tmp_path / "mlm", pooling="cls").model.pooler is None
    with pytest.raises(InputError, match="no pooler weights"):
        load_encoder(tmp_path / "mlm", pooling="pooler")


def test_settings_come_from_the_folder(sentence_folder, sentences, tmp_path):
    folder = tmp_path / "prompted"
    shutil.copytree(sentence_folder, folder)
    config = {"prompts": {"query": "the old ", "empty": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    prompted = load_encoder(folder)
    assert prompted.settings.prompt == "the old "
    plain = load_encoder(sentence_folder)
    torch.testing.assert_close(prompted.encode(["house"]), plain.encode(["the old house"]))
    assert load_encoder(folder, prompt="").settings.prompt == ""
    assert load_encoder(sentence_folder, prompt="a ").encode(["cat"]).equal(plain.encode(["a cat"]))
    assert len(plain.tokenize(["cat " * 100], max_length=7)[0]) == 7
    with pytest.raises(InputError, match="`max_length` 100 is outside 3 to 48"):
        load_encoder(sentence_folder, max_length=100)


def test_other_modules_of_sentence_transformers_are_refused(sentence_folder, tmp_path):
    folder = tmp_path / "lstm"
    shutil.copytree(sentence_folder, folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(1, {"idx": 9, "name": "9", "path": "9_LSTM", "type": "sentence_transformers.models.LSTM"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="LSTM"):
        load_encoder(folder)
    shutil.copy(sentence_folder / "modules.json", folder / "modules.json")
    pooling = folder / "1_Pooling" / "config.json"
    config = json.loads(pooling.read_text())
    pooling.write_text(json.dumps({**config, "pooling_mode_max_tokens": True}))
    with pytest.raises(InputError, match="1_Pooling"):
        load_encoder(folder)
    pooling.unlink()
    with pytest.raises(InputError, match=r"1_Pooling/config\.json is missing"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' model, which sparsecse does not support"),
        ({"model_type": "new"}, "'new' model"),
        ({"is_decoder": True}, "is a decoder"),
        ({"hidden_size": 30}, "not a multiple|do not belong together|cannot be read"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_hidden_layers": 5}, "do not belong together"),
    ],
)
def test_unsupported_and_inconsistent_checkpoints(checkpoints, tmp_path, change, message):
    folder = tmp_path / "changed"
    shutil.copytree(checkpoints["bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=message):
        load_encoder(folder, pooling="mean")


def test_broken_folders(checkpoints, tmp_path):
    with pytest.raises(InputError, match="neither a folder"):
        load_encoder(tmp_path / "nothing", pooling="mean")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no config\.json"):
        load_encoder(tmp_path / "empty", pooling="mean")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        load_encoder(tmp_path / "file", pooling="mean")
    folder = tmp_path / "truncated"
    shutil.copytree(checkpoints["bert"], folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_encoder(folder, pooling="mean")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        load_encoder(folder, pooling="mean")
