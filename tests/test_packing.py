"""Packed folders load with transformers and sentence-transformers, with sparsecse and without it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from conftest import FAMILIES

from sparsecse.encoders import load_encoder
from sparsecse.errors import InputError
from sparsecse.packing import CardFacts, count_parameters, model_card, pack
from sparsecse.pruning.masks import Mask
from sparsecse.pruning.surgery import prune


def facts(dense, smaller) -> CardFacts:
    return CardFacts(
        base_model="tiny",
        sizes=dense.model.config.layer_sizes(),
        kept=smaller.model.config.layer_sizes(),
        parameters=count_parameters(smaller.model),
        dense_parameters=count_parameters(dense.model),
        pooling=smaller.settings.pooling,
        scores={"stsb-test": (80.0, 81.5)},
        stages={"prune": {"removed_heads": 8}},
        versions={"torch": "2"},
    )


@pytest.fixture(scope="module")
def packed(checkpoints, tmp_path_factory):
    """For each family a packed folder with a layer without heads and one without neurons, and its encoder."""
    heads = ([True, False, True, True], [False] * 4, [False, False, True, False])
    neurons = (torch.arange(24) % 3 != 0, torch.arange(24) < 5, torch.zeros(24, dtype=torch.bool))
    mask = Mask(tuple(torch.tensor(h) for h in heads), neurons)
    folders = {}
    for family in FAMILIES:
        dense = load_encoder(checkpoints[family], pooling="mean", normalize=True)
        smaller = prune(dense, mask)
        out = tmp_path_factory.mktemp("packed") / family
        assert pack(smaller, out, facts(dense, smaller))["max_difference"] <= 1e-5
        folders[family] = (out, smaller)
    return folders


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_model_and_sentence_transformers_with_sparsecse(packed, sentences, family):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    folder, encoder = packed[family]
    expected = encoder.encode(sentences)
    model = AutoModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        last = model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = torch.nn.functional.normalize((last * mask).sum(1) / mask.sum(1), dim=-1)
    torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
    vectors = SentenceTransformer(str(folder), device="cpu").encode(sentences, convert_to_tensor=True)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


def test_a_part_of_the_vectors(packed, sentences, tmp_path):
    from sentence_transformers import SentenceTransformer

    encoder = packed["bert"][1].truncated(8)
    out = tmp_path / "cut"
    pack(encoder, out)
    expected = encoder.encode(sentences)
    assert expected.shape == (len(sentences), 8)
    model = SentenceTransformer(str(out), device="cpu")
    torch.testing.assert_close(model.encode(sentences, convert_to_tensor=True), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(load_encoder(out).encode(sentences), expected, atol=1e-5, rtol=1e-5)
    assert "- pooling: mean; the first 8 of 32 values are kept" in (out / "README.md").read_text()
    model.save_pretrained(str(tmp_path / "again"))
    assert load_encoder(tmp_path / "again").settings == encoder.settings


_WITHOUT = textwrap.dedent(
    """
    import json, sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "sparsecse":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Absent())
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    vectors = {}
    sentences = json.loads(sys.argv[1])
    for folder in sys.argv[2:]:
        model = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
        vectors[folder] = model.encode(sentences).tolist()
        plain = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        tokens = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(sentences[:1], return_tensors="pt")
        last = plain(tokens["input_ids"]).last_hidden_state.mean(1)
        same = torch.nn.functional.normalize(last, dim=-1)[0] - torch.tensor(vectors[folder][0])
        assert same.abs().max() < 1e-5, same
    assert not any(name.split(".")[0] == "sparsecse" for name in sys.modules)
    print(json.dumps(vectors))
    """
)


def test_everything_loads_where_sparsecse_is_absent(packed, sentences, tmp_path):
    folders = [str(folder) for folder, _ in packed.values()]
    command = [sys.executable, "-c", _WITHOUT, json.dumps(sentences), *folders]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    vectors = json.loads(done.stdout.splitlines()[-1])
    for folder, encoder in packed.values():
        torch.testing.assert_close(torch.tensor(vectors[str(folder)]), encoder.encode(sentences), atol=1e-5, rtol=1e-5)


def test_the_folder_says_what_it_is(packed):
    folder, encoder = packed["mpnet"]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "sparsecse" and config["original_model_type"] == "mpnet"
    assert config["auto_map"] == {
        "AutoConfig": "modeling_sparsecse.SparseCSEConfig",
        "AutoModel": "modeling_sparsecse.SparseCSEModel",
    }
    layers = config["per_layer_config"]
    assert layers["0"] == {"num_attention_heads": 3, "intermediate_size": 16}
    assert config["kept_heads"] == [[0, 2, 3], [], [2]]
    assert load_encoder(folder).settings == encoder.settings
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "4 of 12 heads, 21 of 72 neurons" in card and "+1.50" in card
    assert json.loads((folder / "sparsecse.json").read_text())["base_model"] == "tiny"


def test_a_card_without_scores_has_no_empty_section(bert):
    plain = CardFacts("tiny", [(4, 24)], [(4, 24)], 10, 10, "mean")
    text = model_card(plain, "name")
    assert "## Scores" not in text and "## How it was made" not in text and "(100.0%)" in text


def test_a_full_disk_leaves_the_earlier_pack(bert, tmp_path, monkeypatch):
    out = tmp_path / "out"
    pack(bert, out, facts(bert, bert))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(encoder, directory, **options):
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sparsecse.packing.folder.save_encoder", full)
    with pytest.raises(InputError, match=r"`out` .* cannot be written \(No space left on device\)"):
        pack(bert, out, facts(bert, bert))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(InputError, match="cannot be written"):
        pack(bert, tmp_path / "new", facts(bert, bert))
    assert not (tmp_path / "new").exists()
