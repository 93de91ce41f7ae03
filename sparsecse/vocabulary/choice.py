"""Which tokens stay: what no text can do without, then the corpus's own, the most frequent first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from sparsecse.errors import InputError
from sparsecse.vocabulary.tokenizer_state import fallback_ids, merges, pieces, special_ids, tokenizer_state


def _parts(model: dict[str, Any]) -> dict[int, set[int]]:
    """For each BPE token the ids of both parts of every merge that yields it."""
    ids = pieces(model)
    parts: dict[int, set[int]] = {}
    for left, right, product in merges(model):
        parts.setdefault(ids[product], set()).update((ids[left], ids[right]))
    return parts


def _missing(token: int, kept: set[int], parts: dict[int, set[int]]) -> set[int]:
    """What must be added to `kept` for the token to be there with all the tokens it is merged from."""
    missing: set[int] = set()
    open_tokens = [token]
    while open_tokens:
        token = open_tokens.pop()
        if token not in kept and token not in missing:
            missing.add(token)
            open_tokens.extend(parts.get(token, ()))
    return missing


def choose_vocabulary(
    tokenizer: Any, counts: np.ndarray, size: int | None = None, *, always: Iterable[int] = ()
) -> list[int]:
    """Choose the tokens that stay; a text that needs no other one splits into the same pieces as before.

    Always kept: special and added tokens, every single-character or byte piece (so that no text the full vocabulary can
    write becomes unknown, whatever its script), and `always`. Then the tokens that occur, the highest count first, the
    earlier id first among equals. A BPE token brings every token that its merges go through.

    Why the pieces stay the same, given that all of a text's tokens are kept:
    - WordPiece takes the longest piece that matches, and what was never taken can go. (An unknown word stays unknown if
      its offending character is in no longer piece either, which holds where every character of a piece is a piece.)
    - BPE applies the merge of lowest rank that it can; all merges that lead to a kept token are there, in their order,
      so every step is the one it was.
    - Unigram takes the best path; with fewer rivals, at unchanged scores, it remains the best, ties included.

    Args:
        tokenizer: a fast transformers tokenizer with a WordPiece, BPE or Unigram model.
        counts: occurrences of every token id, [number of token ids]; or occurrences times `displacement`.
        size: the most tokens to keep; by default all that occur. Where a BPE token does not fit with its parts, rarer
            ones that fit take its place.
        always: ids of further tokens to keep.

    Returns:
        The kept token ids in ascending order; the id of a token in the smaller vocabulary is its place in this list.

    Raises:
        InputError: `size` is below what is always kept; the tokenizer cannot be rewritten.
    """
    state = tokenizer_state(tokenizer)
    model = state["model"]
    parts = _parts(model)
    kept: set[int] = set()
    for token in special_ids(tokenizer, state) | fallback_ids(tokenizer, state) | set(always):
        kept |= _missing(token, kept, parts)
    if size is not None and size < len(kept):
        raise InputError(
            f"`vocab_size` {size} is too small for {tokenizer.name_or_path or 'this tokenizer'}, whose special tokens, "
            f"single characters, prompts and what else always stays are {len(kept)}; give {len(kept)} or more."
        )
    for token in np.argsort(-counts, kind="stable").tolist():
        if counts[token] == 0:
            break
        missing = _missing(token, kept, parts)
        if size is None or len(kept) + len(missing) <= size:
            kept |= missing
    return sorted(kept)
