"""What every `encode` takes and gives, with the names and meanings of sentence-transformers."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sparsecse.errors import InputError
from sparsecse.reading import check_whole_pairs

_INT32 = 2**31

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
        check_whole_pairs(text, "Sentence", position)
    return texts, False


def read_token_ids(token_ids: Any) -> tuple[np.ndarray, np.ndarray]:
    """All ids one after another, int32, and the length of each sentence, int64.

    Args:
        token_ids: for each sentence a list, tuple, array or tensor of whole numbers; or an array or tensor
            [sentences, length], of which every id counts.

    Raises:
        InputError: something else, an id that is no whole number or too large for one, or a sentence without ids.
    """
    kind = type(token_ids).__name__
    if isinstance(token_ids, (str, bytes, Mapping, Set)) or not isinstance(token_ids, Iterable):
        raise InputError(f"`token_ids` is a {kind}; give for each sentence a list of token ids.")
    rows = token_ids.tolist() if hasattr(token_ids, "tolist") else list(token_ids)
    if not isinstance(rows, list):
        raise InputError(f"`token_ids` is a single number ({rows!r:.40}); give for each sentence a list of token ids.")
    # An array of Python's own takes whole numbers of any kind, and nothing else.
    ids, lengths = array("i"), np.empty(len(rows), np.int64)
    for position, row in enumerate(rows):
        if type(row) is not list:
            if isinstance(row, (str, bytes, Mapping, Set)) or not isinstance(row, Iterable):
                raise InputError(
                    f"Sentence {position} is a {type(row).__name__} ({row!r:.40}), not a list of token ids."
                )
            row = row.tolist() if hasattr(row, "tolist") else list(row)
        if not row:
            raise InputError(f"Sentence {position} has no token ids; give at least the special tokens.")
        lengths[position] = len(row)
        try:
            ids.fromlist(row)
        except (TypeError, OverflowError):
            wrong = next(value for value in row if not _is_int32(value))
            raise InputError(
                f"Sentence {position} has the token id {wrong!r:.40}; token ids are whole numbers of the vocabulary."
            ) from None
    return np.frombuffer(ids, np.int32) if ids else np.empty(0, np.int32), lengths


def _is_int32(value: Any) -> bool:
    try:
        return -_INT32 <= value.__index__() < _INT32
    except (AttributeError, TypeError):
        return False


def check_token_ids(ids: np.ndarray, lengths: np.ndarray, config: Any, source: str) -> None:
    """Raise `InputError` for ids outside the vocabulary, or more of them than there are positions.

    ids, lengths: what `read_token_ids` gives. config: a `SparseCSEConfig`.
    """
    problem = None
    if lengths.max() > config.max_position_embeddings - config.position_offset:
        problem = "a sentence has more tokens than there are positions"
    elif ids.min() < 0 or ids.max() >= config.vocab_size:
        problem = "an id is outside the vocabulary"
    if problem:
        raise InputError(f"{source}: {problem}; tokenise with the model's own tokenizer.")


def check_finite(vectors: np.ndarray, source: str, first: int = 0) -> np.ndarray:
    """The vectors [N, ...], or `InputError` where one is not finite.

    first: the position of the first of them, for the message.
    """
    finite = np.isfinite(vectors)
    if not finite.all():
        position = first + int(np.argmin(finite.reshape(len(vectors), -1).all(axis=1)))
        raise InputError(
            f"{source}: the vector of sentence {position} is not finite; check the model's weights, or compute in "
            "float32."
        )
    return vectors


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
    """Raise `InputError` for a batch size that is no whole number from 1 up."""
    if not _is_int32(batch_size):
        raise InputError(f"`batch_size` {batch_size!r:.40} is not a whole number; give one above 0.")
    if batch_size < 1:
        raise InputError(f"`batch_size` {batch_size} is less than 1; give a whole number above 0.")
