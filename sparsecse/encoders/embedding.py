"""What every `encode` takes and gives, with the names and meanings of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from sparsecse.errors import InputError

Report = Callable[[int, int], None]


def read_sentences(sentences: str | Iterable[str]) -> tuple[list[str], bool]:
    """The sentences as a list, and whether a single string was given.

    Args:
        sentences: a string, or strings in an order: a list, tuple, one-dimensional array, pandas Series or generator.

    Raises:
        InputError: an item that is not a string, with its position, or a collection that has no order or two
            dimensions.
    """
    if isinstance(sentences, str):
        return [str(sentences)], True
    kind = type(sentences).__name__
    if isinstance(sentences, (bytes, Mapping, Set)) or not isinstance(sentences, Iterable):
        raise InputError(f"`sentences` is a {kind}; give a string, or strings in a list, tuple, array or Series.")
    if getattr(sentences, "ndim", 1) != 1:
        raise InputError(f"`sentences` is a {kind} of {sentences.ndim} dimensions; give one column of strings.")  # type: ignore[attr-defined]
    texts = list(sentences)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Sentence {position} is a {type(text).__name__} ({text!r:.40}), not a string.")
    return texts, False


def finish(vectors: torch.Tensor, *, normalize_embeddings: bool, truncate_dim: int | None) -> torch.Tensor:
    """Sentence vectors [..., d] with their first `truncate_dim` values, then of unit length, where that is asked for.

    Raises:
        InputError: a `truncate_dim` outside 1 to d.
    """
    if truncate_dim is not None:
        if not 1 <= truncate_dim <= vectors.shape[-1]:
            raise InputError(f"`truncate_dim` {truncate_dim} is outside 1 to {vectors.shape[-1]}, the vector's size.")
        vectors = vectors[..., :truncate_dim]
    return F.normalize(vectors, dim=-1) if normalize_embeddings else vectors


@contextmanager
def progress_bar(show: bool, progress: Report | None) -> Iterator[Report | None]:
    """What to call with (sentences done, in all): `progress`, and a bar on standard error where `show` says so."""
    if not show:
        yield progress
        return
    with tqdm(desc="Embedding", unit=" sentences", disable=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if progress is not None:
                progress(done, total)

        yield report


def check_batch_size(batch_size: Any) -> None:
    """Raise `InputError` for a batch size below 1."""
    if batch_size < 1:
        raise InputError(f"`batch_size` {batch_size} is less than 1; give a whole number above 0.")
