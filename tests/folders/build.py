"""Writes one row of the table as a tiny model folder, by hand: sentence-transformers must not need to agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from conftest import WORDS, tiny_tokenizer
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModel, BertTokenizer, RobertaTokenizer, XLMRobertaTokenizer

POSITIONS = 48  # of tokens, in every family
HIDDEN = 16
LAYERS = 2

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A module after the Transformer: its line in modules.json and its folder.

    tensors: name -> value or shape (random values); `weights` is the file that holds them.
    """

    kind: str
    config: Changes | None = None
    tensors: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    weights: str = "model.safetensors"
    namespace: str = "sentence_transformers.models."
    path: str | None = None
    line: Changes = field(default_factory=lambda: MappingProxyType({}))


MEAN = Part("Pooling", {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True})


@dataclass(frozen=True)
class Row:
    """A layout and what must come of it.

    parts: the modules after the Transformer; None for a folder without modules.json.
    sizes: changes of the configuration that the model is made with.
    files: file -> what to do with it last: None removes it, a dictionary is merged into its JSON, text
        replaces it.
    options: of `load_encoder`.
    refused: a regular expression that the message of the refusal contains; None where the vectors must be right.
    max_length: tokens kept of a text; None where the vectors alone are looked at.
    """

    name: str
    family: str = "bert"
    tokenizer: str = "words"
    parts: tuple[Part, ...] | None = (MEAN,)
    path: str = ""
    weights: str = "model.safetensors"
    sizes: Changes = field(default_factory=lambda: MappingProxyType({}))
    files: Changes = field(default_factory=lambda: MappingProxyType({}))
    options: Changes = field(default_factory=lambda: MappingProxyType({}))
    refused: str | None = None
    max_length: int | None = None


def _wordpiece(cased: bool) -> BertTokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "The", "CAT", "##s", ".", ",", "!"]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=not cased)


_MERGES = [("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t"), ("t", "h"), ("th", "e")]


def _byte_pairs() -> RobertaTokenizer:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += ["".join(merge) for merge in _MERGES] + ["<mask>"]
    return RobertaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=_MERGES)


def _unigram() -> XLMRobertaTokenizer:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz.,!"]
    return XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])


TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "words": tiny_tokenizer,
    "wordpiece": lambda: _wordpiece(cased=False),
    "cased": lambda: _wordpiece(cased=True),
    "byte pairs": _byte_pairs,
    "unigram": _unigram,
}


def build(row: Row, folder: Path) -> Path:
    """Write a row into a new folder."""
    torch.manual_seed(0)
    place = folder / row.path
    place.mkdir(parents=True)
    tokenizer = TOKENIZERS[row.tokenizer]()
    _write_model(row, place, tokenizer)
    tokenizer.save_pretrained(place)
    _write_vocabulary(row.tokenizer, tokenizer, place)
    if row.parts is not None:
        lines = [{"path": row.path, "type": "sentence_transformers.models.Transformer"}]
        lines += [_write_part(part, f"{i}_{part.kind}", folder) for i, part in enumerate(row.parts, start=1)]
        lines = [{"idx": i, "name": str(i), **line} for i, line in enumerate(lines)]
        (folder / "modules.json").write_text(json.dumps(lines))
    for name, wanted in row.files.items():
        change(folder / name, wanted)
    return folder


def _write_model(row: Row, place: Path, tokenizer: Any) -> None:
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 24}
    if row.family == "distilbert":
        sizes["hidden_dim"] = sizes.pop("intermediate_size")
    pad = tokenizer.pad_token_id
    counts = row.family in ("roberta", "xlm-roberta", "camembert", "mpnet")
    values = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": POSITIONS + (pad + 1) * counts,
        "pad_token_id": pad,
        "initializer_range": 0.2,  # at 0.02 all texts of a tiny model get nearly the same vector
        **sizes,
        **({"embedding_size": HIDDEN} if row.family == "electra" else {}),
        **row.sizes,
    }
    model = AutoModel.from_config(AutoConfig.for_model(row.family, **values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    model.to(torch.float16 if row.weights == "float16" else torch.float32)
    if row.weights == "pytorch_model.bin":
        model.config.save_pretrained(place)
        torch.save(model.state_dict(), place / row.weights)
    else:
        model.save_pretrained(place, max_shard_size="10KB" if row.weights == "shards" else "1GB")


def _write_vocabulary(name: str, tokenizer: Any, place: Path) -> None:
    """The files that earlier releases of transformers wrote beside tokenizer.json."""
    vocabulary = tokenizer.get_vocab()
    if name in ("wordpiece", "cased"):
        (place / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8")
    elif name == "byte pairs":
        (place / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (place / "merges.txt").write_text("\n".join(map(" ".join, _MERGES)), encoding="utf-8")


def _write_part(part: Part, name: str, folder: Path) -> dict[str, Any]:
    path = name if part.path is None else part.path
    (folder / name).mkdir()
    if part.config is not None:
        (folder / name / "config.json").write_text(json.dumps(dict(part.config)))
    tensors = {
        key: torch.randn(value) * 0.3 if isinstance(value, tuple) else torch.tensor(value)
        for key, value in part.tensors.items()
    }
    if tensors and part.weights.endswith(".bin"):
        torch.save(tensors, folder / name / part.weights)
    elif tensors:
        save_file(tensors, folder / name / part.weights)
    return {"path": path, "type": part.namespace + part.kind, **part.line}


def change(path: Path, wanted: Any) -> None:
    """Remove a file (None), replace its text or bytes, merge a dictionary into its JSON, or call a function of it."""
    if wanted is None:
        path.unlink()
    elif callable(wanted):
        wanted(path)
    elif isinstance(wanted, bytes):
        path.write_bytes(wanted)
    elif isinstance(wanted, str):
        path.write_text(wanted, encoding="utf-8")
    else:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**before, **wanted}), encoding="utf-8")
