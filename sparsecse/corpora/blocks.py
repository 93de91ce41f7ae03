"""A corpus as blocks of token ids, prepared while the block before is computed, and their vectors in order."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain, count
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")

ROWS = 4096
"""Rows of a block at most: enough for every thread of a large machine, and two of them are little memory."""
# Long documents: what of them is cut off is in memory too.
_CHARACTERS = 1 << 23

TokenIds = list[list[int]]
Submit = Callable[[TokenIds], Callable[[], np.ndarray]]
"""Takes the token ids of texts; what it returns waits for their vectors."""


@dataclass(frozen=True)
class Block:
    """Some rows of one shard.

    ids: of the rows, where the corpus has them. blank: how many texts have no characters but white space.
    input: SHA-256 of the rows of the shard up to here.
    token_ids: of the distinct texts; None where the shard need not be computed.
    places: [rows], where each row's text is among the distinct ones.
    """

    shard: int
    rows: int
    ids: list[str] | None
    blank: int
    input: str
    token_ids: TokenIds | None
    places: np.ndarray


def read_blocks(
    rows: Iterator[tuple[str, str | None]],
    shard_rows: int,
    finished: Collection[int],
    tokenize: Callable[[list[str]], TokenIds],
) -> Iterator[Block]:
    """Cut a corpus into shards and these into blocks, whatever was cut off before: the same rows give the same blocks.

    finished: shards of which only the hash of the rows is wanted.
    """
    for shard in count():
        digest, left = hashlib.sha256(), shard_rows
        while left:
            found = _take(rows, min(left, ROWS))
            if not found:
                return
            left -= len(found)
            # One list after another, so that the hash does not depend on the blocks.
            digest.update(json.dumps(list(chain.from_iterable(found)))[1:-1].encode() + b", ")
            distinct: dict[str, int] = {}
            places = [distinct.setdefault(text, len(distinct)) for text, _ in found]
            yield Block(
                shard,
                len(found),
                None if found[0][1] is None else [str(one) for _, one in found],
                sum(not text.strip() for text, _ in found),
                digest.hexdigest(),
                None if shard in finished else tokenize(list(distinct)),
                np.array(places),
            )


def _take(rows: Iterator[tuple[str, str | None]], most: int) -> list[tuple[str, str | None]]:
    found, characters = [], 0
    for row in rows:
        found.append(row)
        characters += len(row[0])
        if len(found) == most or characters >= _CHARACTERS:
            break
    return found


def ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The items; while the caller works on one, a thread prepares the next."""
    end: Any = object()
    wanted: SimpleQueue[bool] = SimpleQueue()
    ready: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def prepare() -> None:
        while wanted.get():
            try:
                ready.put((next(items, end), None))
            except BaseException as error:
                ready.put((end, error))

    # No pool, which would wait at its end for a thread that waits for standard input.
    threading.Thread(target=prepare, name="sparsecse", daemon=True).start()
    try:
        wanted.put(True)
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            wanted.put(True)
            yield item
    finally:
        wanted.put(False)


def embed(blocks: Iterator[Block], submit: Submit, waiting: int) -> Iterator[tuple[Block, np.ndarray | None]]:
    """The blocks in their order, each with the vectors of its rows, float32 [rows, dimension], or None.

    waiting: blocks that are handed over before the first of them is waited for.
    """
    handed: deque[tuple[Block, Callable[[], np.ndarray] | None]] = deque()
    for block in blocks:
        handed.append((block, None if block.token_ids is None else submit(block.token_ids)))
        if len(handed) > waiting:
            yield _received(*handed.popleft())
    while handed:
        yield _received(*handed.popleft())


def _received(block: Block, receive: Callable[[], np.ndarray] | None) -> tuple[Block, np.ndarray | None]:
    return block, None if receive is None else receive()[block.places]
