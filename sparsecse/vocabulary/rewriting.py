"""The same tokenizer with a smaller vocabulary, its ids counted through from 0."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsecse.errors import InputError
from sparsecse.vocabulary.tokenizer_state import merges, pieces, post_processors, special_ids, tokenizer_state

_TOKENIZER_FILE = "tokenizer.json"


def _rewrite_model(model: dict[str, Any], new_ids: Mapping[int, int]) -> None:
    kept = {piece: new_ids[token] for piece, token in pieces(model).items() if token in new_ids}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for token, entry in enumerate(model["vocab"]) if token in new_ids]
        model["unk_id"] = new_ids.get(model["unk_id"])
    else:
        model["vocab"] = kept
    if model["type"] == "BPE":
        model["merges"] = [merge[:2] for merge in merges(model) if all(piece in kept for piece in merge)]


def _rewrite_ids(state: dict[str, Any], new_ids: Mapping[int, int]) -> None:
    for token in state["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    for processor in post_processors(state):
        for special in processor.get("special_tokens", {}).values():
            special["ids"] = [new_ids[token] for token in special["ids"]]
        for name in ("sep", "cls"):
            if name in processor:
                piece, token = processor[name]
                processor[name] = [piece, new_ids[token]]
    if state["padding"] is not None:
        state["padding"]["pad_id"] = new_ids[state["padding"]["pad_id"]]


def rewrite_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """A tokenizer of the same class, special tokens and settings that knows the kept tokens only.

    Args:
        tokenizer: a fast transformers tokenizer with a WordPiece, BPE or Unigram model; left as it is.
        kept: token ids in ascending order, from `choose_vocabulary`; token `kept[i]` gets id i.

    Raises:
        InputError: the tokenizer is of another kind, or `kept` lacks special tokens.
    """
    state = tokenizer_state(tokenizer)
    name = tokenizer.name_or_path or "The tokenizer"
    new_ids = {token: i for i, token in enumerate(kept)}
    lacking = special_ids(tokenizer, state) - new_ids.keys()
    if lacking:
        raise InputError(
            f"{name} cannot do without its special token {tokenizer.convert_ids_to_tokens(min(lacking))!r}, which is "
            f"not among the {len(kept)} to keep; choose them with choose_vocabulary."
        )
    _rewrite_model(state["model"], new_ids)
    _rewrite_ids(state, new_ids)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        # No file of the full vocabulary may stay beside the new tokenizer.json, which alone is read and saved again.
        for stale in {*tokenizer.vocab_files_names.values(), "added_tokens.json"} - {_TOKENIZER_FILE}:
            (Path(folder) / stale).unlink(missing_ok=True)
        (Path(folder) / _TOKENIZER_FILE).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
        smaller = type(tokenizer).from_pretrained(folder)
    smaller.name_or_path = smaller.init_kwargs["name_or_path"] = tokenizer.name_or_path
    # Classes build their tokenizer anew from the vocabulary and may place a token on their own.
    wanted = {piece: new_ids[token] for piece, token in tokenizer.get_vocab().items() if token in new_ids}
    if smaller.get_vocab() != wanted:
        raise InputError(
            f"{name}: its {type(tokenizer).__name__} gives tokens ids of its own and cannot be rewritten; "
            f"leave its vocabulary as it is."
        )
    return smaller
