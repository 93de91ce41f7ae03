"""What a token is worth: how often it occurs, times how far a sentence vector moves when it falls apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from tokenizers import models

from sparsecse.encoders import Encoder
from sparsecse.vocabulary.choice import choose_vocabulary
from sparsecse.vocabulary.counting import token_ids
from sparsecse.vocabulary.rewriting import rewrite_tokenizer

_BATCH_SIZE = 256  # of a few tokens each


def choose_useful(encoder: Encoder, counts: np.ndarray, size: int, *, always: Iterable[int] = ()) -> list[int]:
    """Fill a vocabulary too small for all tokens with those whose loss would move the corpus's vectors most.

    Half of the free places go to the most frequent tokens, the core. Every other token that occurs is encoded between
    the special tokens twice, as it is and as the pieces of the core that it falls apart into; its worth is its
    occurrences times the squared distance of the two unit vectors. The worthiest take the other half. Frequency alone
    is the poorer guide: it keeps an ending whose word is nearly as well written in two pieces, and drops a somewhat
    rarer name that is nothing without its own.

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
    if size < (minimum := len(choose_vocabulary(tokenizer, np.zeros_like(counts), always=always))):
        return choose_vocabulary(tokenizer, counts, size, always=always)  # which says so
    core = choose_vocabulary(tokenizer, counts, (minimum + size) // 2, always=always)
    inside = set(core)
    rivals = [token for token in np.flatnonzero(counts).tolist() if token not in inside]
    if not rivals:
        return core
    around = _special_tokens_around(tokenizer)
    whole = _unit_vectors(encoder, [around([token]) for token in rivals])
    apart = _unit_vectors(encoder, [around(pieces) for pieces in _fallen_apart(tokenizer, core, rivals)])
    worth = np.zeros(len(counts))
    worth[rivals] = counts[rivals] * (whole - apart).square().sum(dim=1).double().cpu().numpy()
    return choose_vocabulary(tokenizer, worth, size, always=core)


def _unit_vectors(encoder: Encoder, ids: Sequence[Sequence[int]]) -> Any:
    limit = encoder.settings.max_length
    return F.normalize(encoder.encode_ids([row[:limit] for row in ids], batch_size=_BATCH_SIZE), dim=-1)


def _special_tokens_around(tokenizer: Any) -> Any:
    """A function that puts the special tokens of a single sentence around token ids."""
    text = "a"
    (inner,), (outer,) = token_ids(tokenizer, [text]), tokenizer([text])["input_ids"]
    start = next(i for i in range(len(outer)) if outer[i : i + len(inner)] == inner)
    before, after = outer[:start], outer[start + len(inner) :]
    return lambda ids: [*before, *ids, *after]


def _fallen_apart(tokenizer: Any, core: Sequence[int], tokens: Sequence[int]) -> list[list[int]]:
    """For each token the ids (of the full vocabulary) of the core's pieces that spell it."""
    first = rest = rewrite_tokenizer(tokenizer, core).backend_tokenizer.model
    prefix = ""
    if isinstance(first, models.WordPiece):
        # The inside of a word, as a word of its own: every piece that can go on can also begin.
        prefix = first.continuing_subword_prefix
        vocabulary = {piece: i for i, piece in enumerate(tokenizer.convert_ids_to_tokens(list(core)))}
        going_on = {piece: i for piece, i in vocabulary.items() if piece.startswith(prefix) and piece != prefix}
        beginning = {piece.removeprefix(prefix): i for piece, i in going_on.items()}
        unknown = {first.unk_token: vocabulary[first.unk_token]}
        rest = models.WordPiece(beginning | going_on | unknown, unk_token=first.unk_token)
        rest.continuing_subword_prefix = prefix
    spelled = []
    for piece in tokenizer.convert_ids_to_tokens(list(tokens)):
        inside_word = bool(prefix) and piece.startswith(prefix) and piece != prefix
        found = rest.tokenize(piece.removeprefix(prefix)) if inside_word else first.tokenize(piece)
        spelled.append([core[token.id] for token in found])
    return spelled
