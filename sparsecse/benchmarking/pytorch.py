"""The runtimes on PyTorch's own operators: sparsecse's encoder and sentence-transformers, both with padding.

bfloat16 means that the weights are cast once, after loading; autocast would cast them again for every batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from sparsecse.benchmarking.runtimes import Runtime, Setup
from sparsecse.encoders import Encoder, load_encoder
from sparsecse.errors import InputError


class _Sparsecse:
    def __init__(self, encoder: Encoder):
        self._encoder = encoder

    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        return self._encoder.encode_ids(token_ids, batch_size=len(token_ids))


def load_sparsecse(setup: Setup) -> Runtime:
    """Load with `load_encoder`, on the CPU."""
    torch.set_num_threads(setup.threads)
    encoder = load_encoder(setup.source, **setup.load_options)
    return _Sparsecse(encoder.to(getattr(torch, setup.precision)))


class _SentenceTransformers:
    def __init__(self, model: torch.nn.Module, pad_token_id: int):
        self._model, self._pad_token_id = model, pad_token_id

    @torch.inference_mode()
    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        rows = [torch.tensor(ids) for ids in token_ids]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=self._pad_token_id)
        attention_mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return self._model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]


def load_sentence_transformers(setup: Setup) -> Runtime:
    """Load with `SentenceTransformer`, on the CPU, with the pooling that the folder's own modules name."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            "The runtime sentence-transformers is not installed; run pip install 'sparsecse[st]', or leave it out."
        ) from None
    torch.set_num_threads(setup.threads)
    dtype = getattr(torch, setup.precision)
    model = SentenceTransformer(setup.source, device="cpu", model_kwargs={"dtype": dtype}).eval()
    return _SentenceTransformers(model, model.tokenizer.pad_token_id)
