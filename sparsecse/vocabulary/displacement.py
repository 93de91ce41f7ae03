"""What losing a token costs: how far its vector moves when it falls apart into the pieces that are left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import numpy as np
import torch.nn.functional as F

from sparsecse.encoders import Encoder
from sparsecse.vocabulary.choice import choose_vocabulary
from sparsecse.vocabulary.counting import token_ids
from sparsecse.vocabulary.tokenizer_state import merges, pieces, tokenizer_state

_BATCH_SIZE = 256  # of a few tokens each


def displacement(
    encoder: Encoder,
    counts: np.ndarray,
    size: int,
    *,
    always: Iterable[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """How far the vector of each token alone moves when the token is not in the vocabulary.

    Every token that occurs and may be dropped is encoded between the special tokens twice: as it is, and as the pieces
    it falls apart into in the vocabulary of the `size` most frequent. Occurrences times the squared distance of the two
    unit vectors, the squared error that dropping the token adds up to over the corpus, is what `choose_vocabulary` is
    to go by where there is no room for all. Occurrences alone are the poorer guide: they keep a word that is nearly as
    well written in two pieces, and drop a somewhat rarer name that is nothing without its own.

    Args:
        encoder: runs twice on each such token.
        counts: occurrences of every token id, [number of token ids].
        size: the most tokens to keep.
        always: ids of further tokens to keep.
        progress: called with the tokens encoded so far and in all, each counted twice.

    Returns:
        Squared distances, 0 to 4, float64 [number of token ids]; 0 for tokens that do not occur or are kept anyway.

    Raises:
        InputError: as `choose_vocabulary`.
    """
    tokenizer, always = encoder.tokenizer, list(always)
    frequent = set(choose_vocabulary(tokenizer, counts, size, always=always))
    safe = set(choose_vocabulary(tokenizer, np.zeros_like(counts), always=always))
    rivals = [token for token in np.flatnonzero(counts).tolist() if token not in safe]
    distances = np.zeros(len(counts))
    if rivals:
        around, spell = _special_tokens_around(tokenizer), _speller(tokenizer, frequent)
        ids = [around([token]) for token in rivals] + [around(spell(token)) for token in rivals]
        limit = encoder.settings.max_length
        vectors = encoder.encode_ids([row[:limit] for row in ids], batch_size=_BATCH_SIZE, progress=progress)
        whole, apart = F.normalize(vectors, dim=-1).double().chunk(2)
        distances[rivals] = (whole - apart).square().sum(dim=1).cpu().numpy()
    return distances


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

    def usable(piece: str, besides: int) -> int | None:
        token = ids.get(piece)
        return token if token in kept and token != besides else None

    if model["type"] == "WordPiece":
        prefix, unknown = model["continuing_subword_prefix"], ids[model["unk_token"]]
        return lambda token: _longest_matches(names[token], prefix, lambda piece: usable(piece, token), unknown)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        return lambda token: _best_path(names[token], scores, lambda piece: usable(piece, token), model["unk_id"])
    ranked = {
        (ids[left], ids[right]): (rank, ids[product]) for rank, (left, right, product) in enumerate(merges(model))
    }
    parts = {product: pair for pair, (_, product) in ranked.items()}
    return lambda token: _merge_again(token, parts, ranked, kept)


def _longest_matches(piece: str, prefix: str, usable: Callable[[str], int | None], unknown: int) -> list[int]:
    """WordPiece: the longest piece that fits, again and again."""
    going_on = piece.startswith(prefix)
    word = piece.removeprefix(prefix)
    spelled: list[int] = []
    start = 0
    while start < len(word):
        lead = prefix if start or going_on else ""
        ends = range(len(word), start, -1)
        end, token = next(
            ((end, token) for end in ends if (token := usable(lead + word[start:end])) is not None), (0, 0)
        )
        if not end:
            return [unknown]
        spelled.append(token)
        start = end
    return spelled


def _best_path(piece: str, scores: Sequence[float], usable: Callable[[str], int | None], unknown: int) -> list[int]:
    """Unigram: the pieces with the highest sum of scores, an unknown character scoring less than any piece."""
    paths: list[tuple[float, list[int]]] = [(0.0, [])]
    unknown_score = min(scores) - 10
    for end in range(1, len(piece) + 1):
        best = (paths[-1][0] + unknown_score, [*paths[-1][1], unknown])
        for start in range(end):
            token = usable(piece[start:end])
            if token is not None:
                best = max(best, (paths[start][0] + scores[token], [*paths[start][1], token]))
        paths.append(best)
    return paths[-1][1]


def _merge_again(
    token: int, parts: Mapping[int, tuple[int, int]], ranked: Mapping[tuple[int, int], tuple[int, int]], kept: Set[int]
) -> list[int]:
    """BPE: down to the characters, then up again by the merges of lowest rank that yield a kept token."""
    spelled = [token]
    while any(piece in parts for piece in spelled):
        spelled = [part for piece in spelled for part in parts.get(piece, (piece,))]
    while True:
        found = [(*ranked[pair], i) for i, pair in enumerate(pairwise(spelled)) if pair in ranked]
        found = [(rank, product, i) for rank, product, i in found if product in kept and product != token]
        if not found:
            return spelled
        _, product, i = min(found, key=lambda merge: (merge[0], merge[2]))
        spelled[i : i + 2] = [product]
