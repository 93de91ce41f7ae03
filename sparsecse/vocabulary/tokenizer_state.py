"""A fast tokenizer as the dictionary that tokenizer.json holds, read the same way for its three models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sparsecse.errors import InputError

MODELS = ("WordPiece", "BPE", "Unigram")

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


def tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer's tokenizer.json; one whose vocabulary cannot be rewritten raises `InputError` by name."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = None if backend is None else json.loads(backend.to_str())
    if state is None or state["model"]["type"] not in MODELS:
        kind = "no fast model" if state is None else f"the model {state['model']['type']}"
        raise InputError(
            f"{tokenizer.name_or_path or 'The encoder'} has a {type(tokenizer).__name__} with {kind}, so its "
            f"vocabulary cannot be rewritten; give an encoder with a fast tokenizer of the model {', '.join(MODELS)}."
        )
    return state


def pieces(model: dict[str, Any]) -> dict[str, int]:
    """The model's own vocabulary, piece -> token id; added tokens beside it are not in it."""
    vocabulary = model["vocab"]
    if model["type"] == "Unigram":
        return {piece: token for token, (piece, _) in enumerate(vocabulary)}
    return vocabulary


def merges(model: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The merges of a BPE model in order of rank: (left, right, product). Other models have none."""
    prefix = model.get("continuing_subword_prefix") or ""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", ()))
    return [(left, right, left + right.removeprefix(prefix)) for left, right in pairs]


def post_processors(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps that put special tokens around a text, each one of a sequence."""
    processor = state["post_processor"]
    if processor is not None:
        yield from processor["processors"] if processor["type"] == "Sequence" else (processor,)


def special_ids(tokenizer: Any, state: dict[str, Any]) -> set[int]:
    """Ids of special and added tokens, of the unknown token, and of what is put around and behind a text."""
    model = state["model"]
    ids = {token["id"] for token in state["added_tokens"]} | set(tokenizer.all_special_ids)
    if model["type"] == "Unigram":
        ids |= set() if model["unk_id"] is None else {model["unk_id"]}
    elif model["unk_token"] in model["vocab"]:
        ids.add(model["vocab"][model["unk_token"]])
    if state["padding"] is not None:
        ids.add(state["padding"]["pad_id"])
    for processor in post_processors(state):
        ids |= {token for special in processor.get("special_tokens", {}).values() for token in special["ids"]}
        ids |= {processor[name][1] for name in ("sep", "cls") if name in processor}
    return ids


def _always_cut_off(tokenizer: Any, character: str) -> bool:
    """Whether a character is a word of its own wherever it stands, as BERT's punctuation marks and ideographs are."""
    backend = tokenizer.backend_tokenizer
    text = "a" + character
    normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
    words = backend.pre_tokenizer.pre_tokenize_str(normalized) if backend.pre_tokenizer else ()
    return any(word == character for word, _ in words)


def fallback_ids(tokenizer: Any, state: dict[str, Any]) -> set[int]:
    """Ids of the pieces that any text can fall apart into: single characters (of a byte-level BPE: bytes) and <0xNN>.

    Left out is a WordPiece character that would go on with a word (`##!`) but is always cut off from it. Of a Unigram
    model the piece with the lowest score is kept too: an unknown character scores 10 less than that one, and must go on
    doing so for every best path to stay the best.
    """
    model = state["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""

    def is_character(piece: str) -> bool:
        inner = piece.removeprefix(prefix).removesuffix(suffix)
        if len(piece) == 1 or len(inner) != 1:
            return len(piece) == 1
        return model["type"] != "WordPiece" or not _always_cut_off(tokenizer, inner)

    ids = {
        token
        for piece, token in pieces(model).items()
        if is_character(piece) or (model.get("byte_fallback") and _BYTE_PIECE.fullmatch(piece))
    }
    if model["type"] == "Unigram":
        ids.add(min(range(len(model["vocab"])), key=lambda token: model["vocab"][token][1]))
    return ids
