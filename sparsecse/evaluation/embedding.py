"""Sentences to vectors in steps of similar length, with the model's prompt where it has one for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from sparsecse.encoders import EncoderSettings
from sparsecse.errors import InputError

_BATCHES_PER_STEP = 16  # between two calls of `advance`


class SentenceEncoder(Protocol):
    """Anything that turns sentences into embeddings."""

    def encode(self, sentences: list[str], *, batch_size: int) -> torch.Tensor | np.ndarray:
        """Return the embeddings [N, d] of N sentences, normalised or not."""


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
