"""Sentences to vectors in steps of similar length, with the model's prompt where it has one for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from sparsecse.encoders import Encoder, EncoderSettings
from sparsecse.errors import InputError
from sparsecse.runtime import Runtime

_BATCHES_PER_STEP = 16  # between two calls of `advance`


class SentenceEncoder(Protocol):
    """Anything that turns sentences into embeddings."""

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor | np.ndarray:
        """Return the embeddings [N, d] of N sentences, normalised or not."""


class Remembered:
    """A model's unit vectors; a text that was embedded is not embedded again.

    Args:
        make: gives the model, when it is first needed and after `release`.
        settings: the model's.
    """

    def __init__(self, make: Callable[[], Encoder], settings: EncoderSettings):
        self.settings = settings  # where `named_prompts` looks
        self._make = make
        self._runtime: Runtime | None = None
        self._vectors: dict[tuple[str | None, str], torch.Tensor] = {}

    def encode(self, sentences: list[str], *, batch_size: int, prompt: str | None = None) -> torch.Tensor:
        """The unit vectors [N, d]."""
        fresh = [text for text in dict.fromkeys(sentences) if (prompt, text) not in self._vectors]
        if fresh:
            self._runtime = self._runtime or Runtime(self._make(), "float32")
            vectors = F.normalize(torch.as_tensor(self._runtime.encode(fresh, prompt=prompt)), dim=-1)
            self._vectors |= {(prompt, text): vector for text, vector in zip(fresh, vectors, strict=True)}
        return torch.stack([self._vectors[prompt, text] for text in sentences])

    def release(self) -> None:
        """Forget the model, not its vectors."""
        self._runtime = None


def embed(
    encoder: SentenceEncoder,
    sentences: Sequence[str],
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
    *,
    prompt: str | None = None,
) -> torch.Tensor:
    """The encoder's embeddings [N, d] in float32 on the CPU.

    Args:
        sentences: at least one.
        advance: told how many sentences each step adds.
        prompt: text put before every sentence, "" for none; by default what the encoder puts there itself.

    Raises:
        InputError: an embedding that is not finite.
    """
    options: dict[str, Any] = {}
    if prompt is not None and _takes_prompt(encoder):
        options["prompt"] = prompt
    elif prompt:
        sentences = [prompt + sentence for sentence in sentences]
    # By length, so that every step's sentences need about the same padding.
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]), reverse=True)
    step = batch_size * _BATCHES_PER_STEP
    parts = []
    for start in range(0, len(order), step):
        chunk = [sentences[index] for index in order[start : start + step]]
        part = torch.as_tensor(encoder.encode(chunk, batch_size=batch_size, **options)).detach()
        part = part.to("cpu", torch.float32)
        broken = (~part.isfinite().all(dim=1)).nonzero()
        if len(broken):
            raise InputError(
                f"The encoder's embedding of {chunk[int(broken[0])]!r} is not finite; check the model's weights."
            )
        parts.append(part)
        advance(len(chunk))
    vectors = torch.empty(len(sentences), parts[0].shape[1])
    vectors[order] = torch.cat(parts)
    return vectors


def embed_each(
    encoder: SentenceEncoder,
    sentences: Iterable[str],
    batch_size: int,
    advance: Callable[[int], None],
    *,
    prompt: str | None = None,
) -> torch.Tensor:
    """As `embed`, a row for each sentence; one that occurs more than once is embedded, and told of, once."""
    texts = list(sentences)
    row = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    vectors = embed(encoder, list(row), batch_size, advance, prompt=prompt)
    return vectors[[row[text] for text in texts]]


def named_prompts(encoder: SentenceEncoder) -> tuple[Mapping[str, str], str | None]:
    """An encoder's prompts by name, and the name of its default one: of a `Runtime`, an `Encoder`, or an encoder with
    the attributes of sentence-transformers (`prompts`, `default_prompt_name`); none of any other.
    """
    settings = getattr(getattr(encoder, "encoder", encoder), "settings", None)
    if isinstance(settings, EncoderSettings):
        return settings.prompts, settings.default_prompt
    prompts = getattr(encoder, "prompts", None)
    if isinstance(prompts, Mapping):
        return prompts, getattr(encoder, "default_prompt_name", None)
    return {}, None


def _takes_prompt(encoder: SentenceEncoder) -> bool:
    parameters = inspect.signature(encoder.encode).parameters
    return "prompt" in parameters
