"""How often a corpus uses each token, and how much of unseen text a smaller vocabulary leaves as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from sparsecse.errors import InputError

HELD_OUT_EVERY = 10
"""Lines 10, 20, 30, ... of a corpus are held out."""

_BATCH_LINES = 1000

Progress = Callable[[int], None]
"""Called with the number of lines read so far; a stream does not know its length."""


@dataclass(frozen=True)
class TokenCounts:
    """Occurrences of every token id, int64 [number of token ids], special tokens around a sentence left out.

    chosen_from: in nine lines of ten.
    held_out: in every tenth line (`HELD_OUT_EVERY`).
    lines: lines read, of both kinds.
    """

    chosen_from: np.ndarray
    held_out: np.ndarray
    lines: int

    @property
    def total(self) -> np.ndarray:
        """Occurrences in the whole corpus, [number of token ids]."""
        return self.chosen_from + self.held_out


@dataclass(frozen=True)
class Coverage:
    """What a smaller vocabulary leaves of the held-out lines; every share is from 0 to 1.

    lines, occurrences: how many lines were held out, and how many tokens they have with the full vocabulary.
    tokens_kept: share of these occurrences whose token is in the smaller vocabulary.
    lines_unchanged: share of the lines that split into exactly the same pieces.
    unknown_before, unknown_after: share of unknown tokens among those of the full and of the smaller vocabulary.
    length_ratio: tokens after over tokens before; what falls apart into smaller pieces gets longer.
    """

    lines: int
    occurrences: int
    tokens_kept: float
    lines_unchanged: float
    unknown_before: float
    unknown_after: float
    length_ratio: float


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole texts: neither cut nor padded, no special tokens around them."""
    if not texts:  # transformers fails on an empty batch
        return []
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def id_space(tokenizer: Any) -> int:
    """One more than the largest token id."""
    return max(tokenizer.get_vocab().values()) + 1


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(lines)
    while batch := list(islice(stream, _BATCH_LINES)):
        yield batch


def count_tokens(
    tokenizer: Any, lines: Iterable[str], *, prompt: str = "", progress: Progress | None = None
) -> TokenCounts:
    """Count the tokens of a corpus in one pass, the held-out lines apart.

    Args:
        tokenizer: a transformers tokenizer.
        lines: the sentences; read a thousand at a time, and not kept.
        prompt: put before every line, as the encoder does (`EncoderSettings.prompt`); its tokens count with each line.
        progress: called with the number of lines read so far.

    Raises:
        InputError: there is no line.
    """
    size = id_space(tokenizer)
    counts = np.zeros((2, size), dtype=np.int64)
    done = 0
    for batch in _batches(lines):
        ids = token_ids(tokenizer, [prompt + line for line in batch])
        for row, held_out in enumerate((False, True)):
            part = [ids[i] for i in range(len(ids)) if _is_held_out(done + i) == held_out]
            counts[row] += np.bincount(_joined(part), minlength=size)
        done += len(batch)
        if progress is not None:
            progress(done)
    if not done:
        raise InputError("The corpus holds no sentences; give text with one sentence a line.")
    return TokenCounts(counts[0], counts[1], done)


def measure_coverage(
    tokenizer: Any,
    smaller: Any,
    kept: Sequence[int],
    lines: Iterable[str],
    *,
    prompt: str = "",
    progress: Progress | None = None,
) -> Coverage:
    """Compare two tokenizers on the held-out lines of a corpus.

    Args:
        tokenizer: the one with the full vocabulary.
        smaller: `rewrite_tokenizer(tokenizer, kept)`.
        kept: token ids of the smaller vocabulary; `smaller` counts them through.
        lines, prompt, progress: as in `count_tokens`; the same corpus, so that the same lines are held out.

    Raises:
        InputError: the corpus is shorter than `HELD_OUT_EVERY` lines, so that none is held out.
    """
    new_ids = np.full(id_space(tokenizer), -1)
    new_ids[list(kept)] = np.arange(len(kept))
    held_out = occurrences = stayed = unchanged = unknown = occurrences_after = unknown_after = done = 0
    for batch in _batches(lines):
        texts = [prompt + line for i, line in enumerate(batch) if _is_held_out(done + i)]
        before, after = token_ids(tokenizer, texts), token_ids(smaller, texts)
        mapped = [new_ids[ids] if ids else np.array([], dtype=np.int64) for ids in before]
        held_out += len(texts)
        occurrences += sum(map(len, before))
        occurrences_after += sum(map(len, after))
        stayed += sum(int((ids >= 0).sum()) for ids in mapped)
        unchanged += sum(old.tolist() == new for old, new in zip(mapped, after, strict=True))
        unknown += sum(ids.count(tokenizer.unk_token_id) for ids in before)
        unknown_after += sum(ids.count(smaller.unk_token_id) for ids in after)
        done += len(batch)
        if progress is not None:
            progress(done)
    if not held_out or not occurrences:
        raise InputError(
            f"The corpus has {done} lines, and every {HELD_OUT_EVERY}th is held out to measure coverage; "
            f"give at least {HELD_OUT_EVERY}."
        )
    return Coverage(
        lines=held_out,
        occurrences=occurrences,
        tokens_kept=stayed / occurrences,
        lines_unchanged=unchanged / held_out,
        unknown_before=unknown / occurrences,
        unknown_after=unknown_after / occurrences_after,
        length_ratio=occurrences_after / occurrences,
    )


def _is_held_out(line: int) -> bool:
    return line % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def _joined(ids: Sequence[Sequence[int]]) -> np.ndarray:
    return np.fromiter((token for line in ids for token in line), dtype=np.int64)
