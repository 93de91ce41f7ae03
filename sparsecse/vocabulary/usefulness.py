"""What a token is worth: how often it occurs, times how far a sentence vector moves when it falls apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sparsecse.encoders import Encoder
from sparsecse.vocabulary.choice import choose_vocabulary
from sparsecse.vocabulary.counting import token_ids
from sparsecse.vocabulary.tokenizer_state import merges, pieces, tokenizer_state

_BATCH_SIZE = 256  # of a few tokens each


def choose_useful(encoder: Encoder, counts: np.ndarray, size: int, *, always: Iterable[int] = ()) -> list[int]:
    """Fill a vocabulary too small for all tokens with those whose loss would move the corpus's vectors most.

    Half of the free places go to the most frequent tokens. Every other token that occurs is encoded between the special
    tokens twice, as it is and as the pieces that it would fall apart into in the vocabulary that frequency alone
    chooses; its worth is its occurrences times the squared distance of the two unit vectors. The worthiest take the
    other half. Frequency alone is the poorer guide: it keeps a word that is nearly as well written in two pieces, and
    drops a somewhat rarer name that is nothing without its own.

    Args:
        encoder: runs twice on each token that competes.
        counts: occurrences of every token id, [number of token ids].
        size: the most tokens to keep.
        always: ids of further tokens to keep.

    Returns:
        The kept token ids in ascending order, as `choose_vocabulary`.

    Raises:
        InputError: as `choose_vocabulary`.
    """
    tokenizer, always = encoder.tokenizer, list(always)
    frequent = choose_vocabulary(tokenizer, counts, size, always=always)
    minimum = len(choose_vocabulary(tokenizer, np.zeros_like(counts), always=always))
    core = choose_vocabulary(tokenizer, counts, (minimum + size) // 2, always=always)
    inside = set(core)
    rivals = [token for token in np.flatnonzero(counts).tolist() if token not in inside]
    if not rivals:
        return core
    around = _special_tokens_around(tokenizer)
    spell = _speller(tokenizer, set(frequent))
    whole = _unit_vectors(encoder, [around([token]) for token in rivals])
    apart = _unit_vectors(encoder, [around(spell(token)) for token in rivals])
    worth = np.zeros(len(counts))
    worth[rivals] = counts[rivals] * (whole - apart).square().sum(dim=1).double().cpu().numpy()
    return choose_vocabulary(tokenizer, worth, size, always=core)


def _unit_vectors(encoder: Encoder, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    limit = encoder.settings.max_length
    return F.normalize(encoder.encode_ids([row[:limit] for row in ids], batch_size=_BATCH_SIZE), dim=-1)


def _special_tokens_around(tokenizer: Any) -> Callable[[Sequence[int]], list[int]]:
    """A function that puts the special tokens of a single sentence around token ids."""
    (inner,), (outer,) = token_ids(tokenizer, ["a"]), tokenizer(["a"])["input_ids"]
    start = next(i for i in range(len(outer)) if outer[i : i + len(inner)] == inner)
    before, after = outer[:start], outer[start + len(inner) :]
    return lambda ids: [*before, *ids, *after]


def _speller(tokenizer: Any, kept: Set[int]) -> Callable[[int], list[int]]:
    """A function from a token to the kept tokens, itself not among them, that its tokenizer would write it with."""
    model = tokenizer_state(tokenizer)["model"]
    ids = pieces(model)
    names = {token: piece for piece, token in ids.items()}
    unknown = tokenizer.unk_token_id

    def undo_merges(token: int, first: bool = True) -> list[int]:
        if token in kept and not first or token not in parts:
            return [token]
        left, right = parts[token]
        return undo_merges(left, False) + undo_merges(right, False)

    def longest_match(token: int) -> list[int]:
        piece = names[token]
        prefix = model["continuing_subword_prefix"]
        going_on = piece.startswith(prefix)
        word, spelled, start = piece.removeprefix(prefix), [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                found = ids.get((prefix if start or going_on else "") + word[start:end])
                if found in kept and found != token:
                    spelled.append(found)
                    start = end
                    break
            else:
                return [unknown]
        return spelled

    def best_path(token: int) -> list[int]:
        piece = names[token]
        paths: list[tuple[float, list[int]]] = [(0.0, [])]
        for end in range(1, len(piece) + 1):
            # A character that is no piece of its own costs more than any piece.
            best = (paths[-1][0] + least - 10, [*paths[-1][1], unknown])
            for start in range(end):
                found = ids.get(piece[start:end])
                if found in kept and found != token:
                    best = max(best, (paths[start][0] + model["vocab"][found][1], [*paths[start][1], found]))
            paths.append(best)
        return paths[-1][1]

    if model["type"] == "WordPiece":
        return longest_match
    if model["type"] == "Unigram":
        least = min(score for _, score in model["vocab"])
        return best_path
    parts: dict[int, tuple[int, int]] = {}
    for left, right, product in merges(model):
        parts.setdefault(ids[product], (ids[left], ids[right]))
    return undo_merges
