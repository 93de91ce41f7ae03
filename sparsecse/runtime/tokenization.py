"""Token ids without the wrapping: the tokenizers library called directly, the next sentences while others compute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sparsecse.encoders import Encoder

# Sentences tokenised at a time: enough that calls cost nothing, few enough that computing can begin.
BLOCK = 1024


def make_tokenize(encoder: Encoder) -> Callable[[Sequence[str]], list[list[int]]]:
    """A function that gives the ids of `encoder.tokenize`, several times as fast for a single sentence."""
    if not getattr(encoder.tokenizer, "is_fast", False):
        return encoder.tokenize
    # A copy: cutting and padding are states of this object, which its owner may set otherwise at any time.
    backend: Any = copy.deepcopy(encoder.tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.enable_truncation(encoder.settings.max_length, direction=encoder.tokenizer.truncation_side)
    prompt = encoder.settings.prompt

    def tokenize(sentences: Sequence[str]) -> list[list[int]]:
        texts = [prompt + sentence for sentence in sentences] if prompt else sentences
        if len(texts) == 1:
            return [backend.encode(texts[0]).ids]
        return [encoding.ids for encoding in backend.encode_batch_fast(texts)]

    return tokenize


def blocks(tokenize: Callable[[Sequence[str]], list[list[int]]], sentences: Sequence[str]) -> Iterator[list[list[int]]]:
    """The ids of all sentences, block by block; while the caller works on one, a thread prepares the next."""
    starts = range(0, len(sentences), BLOCK)
    if len(starts) == 1:
        yield tokenize(sentences)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(tokenize, sentences[:BLOCK])
        for start in starts:
            ready = coming.result()
            coming = pool.submit(tokenize, sentences[start + BLOCK : start + 2 * BLOCK])
            yield ready
