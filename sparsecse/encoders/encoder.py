"""An encoder: token model, tokenizer, pooling and normalisation, from sentences to vectors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sparsecse.encoders import embedding
from sparsecse.encoders.head import Dense
from sparsecse.encoders.modeling_sparsecse import SparseCSEModel
from sparsecse.encoders.pooling import pool, pool_packed
from sparsecse.encoders.settings import EncoderSettings
from sparsecse.errors import InputError
from sparsecse.forking import before_tokenizing, past_fork
from sparsecse.kernels import attention, shared_token_maps


@dataclass(frozen=True)
class PackedBatch:
    """Sentences one after another, without padding.

    input_ids, position_ids: [total_tokens].
    cu_lengths: [sentences + 1], int64: where each sentence begins, from 0, and the total last.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_lengths: torch.Tensor

    def __len__(self) -> int:
        return len(self.cu_lengths) - 1

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        relative_bias: torch.Tensor | None,
        dropout: float,
        gate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention inside each sentence, as `SparseCSEModel` takes it; its dropout follows torch's CPU generator.

        gate: None or [sentences, heads]; see `kernels.attention`.
        """
        seed = int(torch.randint(2**62, ())) if dropout else 0
        bias = None if relative_bias is None else relative_bias.expand(query.shape[1], -1)
        return attention(query, key, value, self.cu_lengths, bias=bias, gate=gate, dropout=dropout, seed=seed)


@dataclass(frozen=True)
class Origin:
    """The dense model that an encoder was pruned from: its name, (heads, neurons) of each layer, parameters."""

    source: str
    sizes: Sequence[tuple[int, int]]
    parameters: int


class Encoder(nn.Module):
    """A sentence encoder of any supported family, dense or pruned.

    Attributes:
        model: the token model, always a `SparseCSEModel`.
        tokenizer: a transformers tokenizer.
        settings: pooling, normalisation, length limit, prompts and how much of a vector is kept.
        source: the folder or hub id it was loaded from, for messages and records.
        head: `Dense` modules between pooling and normalisation, one after the other; mostly none.
        origin: what it was pruned from in this process; None for a model as it was loaded.
    """

    def __init__(
        self,
        model: SparseCSEModel,
        tokenizer: Any,
        settings: EncoderSettings,
        source: str,
        head: Iterable[nn.Module] = (),
    ):
        super().__init__()
        self.model = model
        # An Encoder is PyTorch throughout: what is scored, trained, exported, and what faster runtimes are measured by.
        self.model.native_forward = None
        self.tokenizer = tokenizer
        self.settings = settings
        self.source = source
        self.head = nn.Sequential(*head)
        self.origin: Origin | None = None

    def pruned_from(self) -> Origin:
        """What a model that is pruned from this one now was pruned from: this one's own origin, or this one."""
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return self.origin or Origin(self.source, self.model.config.layer_sizes(), parameters)

    def copy(self) -> Encoder:
        """An encoder with weights of its own, in the same mode; the tokenizer and the settings are shared."""
        twin = Encoder(copy.deepcopy(self.model), self.tokenizer, self.settings, self.source, copy.deepcopy(self.head))
        twin.origin = self.origin
        return twin.train(self.training)

    def truncated(self, truncate_dim: int) -> Encoder:
        """The same model, of whose vectors `encode` keeps the first values alone (Matryoshka); the weights are shared.

        Raises:
            InputError: a `truncate_dim` outside 1 to the model's own vectors' size, which keeps all.
        """
        kept = self.width(truncate_dim)
        settings = replace(self.settings, truncate_dim=None if kept == self.dimension else kept)
        twin = Encoder(self.model, self.tokenizer, settings, self.source, self.head)
        twin.origin = self.origin
        return twin.train(self.training)

    def width(self, truncate_dim: int | None = None) -> int:
        """The size of the vectors that `encode` gives: `truncate_dim`, else the settings', else all of it.

        Raises:
            InputError: a `truncate_dim` outside 1 to the model's own vectors' size.
        """
        size = self.dimension
        if truncate_dim is None:
            return self.settings.truncate_dim or size
        if not 1 <= truncate_dim <= size:
            raise InputError(f"`truncate_dim` {truncate_dim} is outside 1 to {size}, the vector's size.")
        return truncate_dim

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dimension(self) -> int:
        """The size of a whole sentence vector, of which `width` values are kept."""
        return cast(Dense, self.head[-1]).linear.out_features if len(self.head) else self.model.config.hidden_size

    def tokenize(
        self, sentences: Sequence[str], max_length: int | None = None, prompt: str | None = None
    ) -> list[list[int]]:
        """Token ids of each sentence, with the prompt (by default the model's own) and special tokens.

        max_length: tokens kept of a sentence; by default, and at most, the model's own.
        """
        prompt = self.settings.prompt_text(prompt)
        texts = [prompt + sentence for sentence in sentences] if prompt else list(sentences)
        if not texts:
            return []
        before_tokenizing()
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

    def pack(self, token_ids: Sequence[Sequence[int]]) -> PackedBatch:
        """Put sentences one after another, on the encoder's device.

        Raises:
            InputError: a sentence without ids.
        """
        config = self.model.config
        lengths = torch.tensor([len(ids) for ids in token_ids])
        if not lengths.all():  # whose vector would be that of another one's token
            raise InputError(f"{self.source}: a sentence has no tokens; leave empty ones out.")
        cu_lengths = F.pad(lengths.cumsum(dim=0), (1, 0))
        input_ids = torch.tensor([token for ids in token_ids for token in ids])
        # Where the family counts the tokens that are not padding, so must this: a text may name the padding token.
        counted = input_ids.ne(config.pad_token_id).long() if config.position_offset else torch.ones_like(input_ids)
        count = F.pad(counted.cumsum(dim=0), (1, 0))
        position_ids = count[1:] - count[cu_lengths[:-1]].repeat_interleave(lengths)
        position_ids = position_ids * counted + config.position_offset - 1
        return PackedBatch(*(x.to(self.device) for x in (input_ids, position_ids, cu_lengths)))

    def batches(
        self, token_ids: Sequence[Sequence[int]], batch_size: int
    ) -> Iterator[tuple[torch.Tensor, PackedBatch]]:
        """Packed batches, longest sentences first, each with its sentences' positions in `token_ids`.

        A batch holds at most as many tokens as `batch_size` sentences of average length, or a single sentence.
        """
        for rows in batch_rows(np.array([len(ids) for ids in token_ids]), batch_size):
            yield torch.from_numpy(rows), self.pack([token_ids[row] for row in rows])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Whole sentence vectors [batch, dimension] of padded token ids [batch, length]."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=self.settings.pooling == "first_last_avg",
        )
        return self.pool(outputs, attention_mask)

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """Whole sentence vectors [sentences, dimension]: those of `forward`, but no padding is computed."""
        with shared_token_maps(batch.cu_lengths):
            outputs = self.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                attend=batch.attend,
                output_hidden_states=self.settings.pooling == "first_last_avg",
            )
        return self._finish(pool_packed(outputs, batch.cu_lengths, self.settings.pooling, self.model.pooler))

    def pool(self, outputs: Any, attention_mask: torch.Tensor) -> torch.Tensor:
        """Sentence vectors [batch, dimension] of what the model returned for padded token ids; see `pooling.pool`."""
        return self._finish(pool(outputs, attention_mask, self.settings.pooling))

    def _finish(self, vectors: torch.Tensor) -> torch.Tensor:
        vectors = self.head(vectors)
        return F.normalize(vectors, dim=-1) if self.settings.normalize else vectors

    @past_fork
    def encode_ids(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        batch_size: int = 64,
        truncate_dim: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor:
        """Sentence vectors [N, width], float32, without gradients and dropout; rows in the order given.

        batch_size: sentences of average length that are taken at a time; see `batches`.
        truncate_dim: values kept of each vector; see `width`.
        progress: called with (sentences done, sentences in all) after each batch.

        Raises:
            InputError: ids that are no whole numbers of the vocabulary, a sentence without ids or with more than there
                are positions, a `truncate_dim` out of range, or a vector that is not finite.
        """
        width = self.width(truncate_dim)
        embedding.check_batch_size(batch_size)
        flat, lengths = embedding.read_token_ids(token_ids)
        if len(lengths):
            embedding.check_token_ids(flat, lengths, self.model.config, self.source)
        token_ids = [part.tolist() for part in np.split(flat, lengths.cumsum()[:-1])] if len(lengths) else []
        was_training = self.training
        self.eval()
        vectors = torch.empty(len(token_ids), width, device=self.device)
        done = 0
        with torch.inference_mode():
            for rows, batch in self.batches(token_ids, batch_size):
                vectors[rows.to(self.device)] = self.forward_packed(batch)[:, :width].float()
                done += len(batch)
                if progress is not None:
                    progress(done, len(token_ids))
        self.train(was_training)
        if not bool(vectors.isfinite().all()):
            embedding.check_finite(vectors.cpu().numpy(), self.source)
        # A plain tensor: callers differentiate through what they compute from it.
        return vectors.clone()

    @past_fork
    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 64,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = False,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor | np.ndarray:
        """Sentence vectors of texts, float32: [N, width], or [width] for a single string.

        A tensor on the encoder's device, or an array where `convert_to_numpy` asks for one. PyTorch computes;
        `sparsecse.Runtime` has the same method and is faster.

        Args:
            sentences: a string, or strings in a list, tuple, array, pandas Series or generator.
            prompt_name: which of the model's prompts is put before every sentence; by default the model's default.
            prompt: the text itself, "" for none.
            batch_size: sentences of average length that are taken at a time; see `batches`.
            show_progress_bar: draw a progress bar on standard error.
            convert_to_numpy: return an array, unless `convert_to_tensor`.
            convert_to_tensor: return a tensor, which is the default.
            normalize_embeddings: unit length, also where the model does not normalise.
            truncate_dim: values kept of each vector, from the first; for models trained so (Matryoshka). By default the
                model's own, see `width`; the model's own vectors' size keeps all.
            progress: called with (sentences done, sentences in all) after each batch.

        Raises:
            InputError: an item that is not a string, an unknown `prompt_name`, a size out of range, or a vector that is
                not finite.
        """
        texts, single = embedding.read_sentences(sentences)
        embedding.check_batch_size(batch_size)
        ids = self.tokenize(texts, prompt=self.settings.prompt_text(prompt, prompt_name))
        with embedding.progress_bar(show_progress_bar, progress) as report:
            vectors = self.encode_ids(ids, batch_size=batch_size, truncate_dim=truncate_dim, progress=report)
        if normalize_embeddings:
            vectors = F.normalize(vectors, dim=-1)
        if single:
            vectors = vectors[0]
        return vectors.cpu().numpy() if convert_to_numpy and not convert_to_tensor else vectors


def batch_rows(lengths: np.ndarray, batch_size: int, most_tokens: int | None = None) -> list[np.ndarray]:
    """The rows of each batch, longest sentences first.

    A batch holds at most as many tokens as `batch_size` sentences of average length, and at most `most_tokens`, or a
    single sentence.

    lengths: [sentences], tokens of each.
    """
    order = np.argsort(-lengths, kind="stable")
    budget = -(-batch_size * int(lengths.sum()) // max(1, len(lengths)))
    budget = budget if most_tokens is None else min(budget, most_tokens)
    starts, tokens = [0], 0
    for place, length in enumerate(lengths[order].tolist()):
        if tokens and tokens + length > budget:
            starts.append(place)
            tokens = 0
        tokens += length
    return np.split(order, starts[1:]) if len(order) else []
