"""Token ids without the wrapping: the tokenizers library called directly, the next sentences while others compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sparsecse.encoders import Encoder
from sparsecse.forking import before_tokenizing

# Sentences tokenised at a time: enough that calls cost nothing, few enough that computing can begin.
BLOCK = 1024


class Tokenize:
    """Gives the ids of `encoder.tokenize`, several times as fast for a single sentence."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._backend: Any = None
        if getattr(encoder.tokenizer, "is_fast", False):
            # A copy: cutting and padding are states of this object, which its owner may set otherwise at any time.
            self._backend = copy.deepcopy(encoder.tokenizer.backend_tokenizer)
            self._backend.no_padding()
            self._backend.enable_truncation(encoder.settings.max_length, direction=encoder.tokenizer.truncation_side)

    def __call__(self, sentences: Sequence[str], prompt: str) -> list[list[int]]:
        before_tokenizing()
        if self._backend is None:
            return self._encoder.tokenize(sentences, prompt=prompt)
        texts = [prompt + sentence for sentence in sentences] if prompt else sentences
        if len(texts) == 1:
            return [self._backend.encode(texts[0]).ids]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts)]

    def blocks(self, sentences: Sequence[str], prompt: str, size: int = BLOCK) -> Iterator[list[list[int]]]:
        """The ids of all sentences, `size` at a time; while the caller works on some, a thread prepares the next."""
        starts = range(0, len(sentences), size)
        if len(starts) == 1:
            yield self(sentences, prompt)
            return
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self, sentences[:size], prompt)
            for start in starts:
                ready = coming.result()
                coming = pool.submit(self, sentences[start + size : start + 2 * size], prompt)
                yield ready
