"""An encoder: token model, tokenizer, pooling and normalisation, from sentences to vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sparsecse.encoders.modeling_sparsecse import SparseCSEModel
from sparsecse.encoders.pooling import pool


@dataclass(frozen=True)
class EncoderSettings:
    """How token vectors become the sentence vector.

    pooling: a key of `POOLING_MODES`.
    normalize: whether the vector is divided by its length.
    max_length: tokens kept of a sentence, special tokens included.
    prompts: named prefixes (E5, BGE); `default_prompt` names the one put before every sentence, or is None.
    """

    pooling: str
    normalize: bool
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    @property
    def prompt(self) -> str:
        return self.prompts[self.default_prompt] if self.default_prompt else ""


@dataclass(frozen=True)
class Batch:
    """Padded token ids and their mask, [batch, length] each, and the position of every row in the caller's list."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: torch.Tensor


class Encoder(nn.Module):
    """A sentence encoder of any supported family, dense or pruned.

    Attributes:
        model: the token model, always a `SparseCSEModel`.
        tokenizer: a transformers tokenizer.
        settings: pooling, normalisation, length limit and prompts.
        source: the folder or hub id it was loaded from, for messages and records.
    """

    def __init__(self, model: SparseCSEModel, tokenizer: Any, settings: EncoderSettings, source: str):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.source = source

    @property
    def device(self) -> torch.device:
        return self.model.device

    def tokenize(self, sentences: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each sentence, with the prompt and special tokens, cut to `max_length` tokens."""
        prompt = self.settings.prompt
        texts = [prompt + sentence for sentence in sentences] if prompt else list(sentences)
        if not texts:
            return []
        limit = min(max_length or self.settings.max_length, self.settings.max_length)
        return self.tokenizer(
            texts, truncation=True, max_length=limit, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]

    def collate(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad on the right: ids and mask, [batch, longest], on the encoder's device."""
        lengths = torch.tensor([len(ids) for ids in token_ids])
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        padded = torch.full(mask.shape, self.model.config.pad_token_id)
        padded[mask] = torch.tensor([token for ids in token_ids for token in ids])
        return padded.to(self.device), mask.long().to(self.device)

    def batches(self, token_ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[Batch]:
        """Batches of sentences of similar length, longest first, so that little is padding."""
        order = sorted(range(len(token_ids)), key=lambda row: -len(token_ids[row]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            input_ids, mask = self.collate([token_ids[row] for row in rows])
            yield Batch(input_ids, mask, torch.tensor(rows))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Sentence vectors [batch, hidden_size] of padded token ids [batch, length]."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=self.settings.pooling == "first_last_avg",
        )
        vectors = pool(outputs, attention_mask, self.settings.pooling)
        return F.normalize(vectors, dim=-1) if self.settings.normalize else vectors

    def encode_ids(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Sentence vectors [N, hidden_size], float32, without gradients and dropout; rows in the order given.

        progress: called with (sentences done, sentences in all) after each batch.
        """
        was_training = self.training
        self.eval()
        vectors = torch.empty(len(token_ids), self.model.config.hidden_size, device=self.device)
        done = 0
        with torch.inference_mode():
            for batch in self.batches(token_ids, batch_size):
                vectors[batch.rows.to(self.device)] = self(batch.input_ids, batch.attention_mask).float()
                done += len(batch.rows)
                if progress is not None:
                    progress(done, len(token_ids))
        self.train(was_training)
        # A plain tensor: callers differentiate through what they compute from it.
        return vectors.clone()

    def encode(
        self,
        sentences: Sequence[str],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Sentence vectors [N, hidden_size] of texts; see `encode_ids`."""
        return self.encode_ids(self.tokenize(sentences), batch_size=batch_size, progress=progress)
