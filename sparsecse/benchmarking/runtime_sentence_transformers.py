"""Runtime "sentence-transformers": the modules of a `SentenceTransformer` on PyTorch, with padding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from sparsecse.benchmarking.runtimes import Runtime, Setup, padded
from sparsecse.encoders import Encoder, SparseCSEModel, is_stock, save_encoder


class _SentenceTransformers:
    def __init__(self, model: SentenceTransformer):
        self._model = model

    @torch.inference_mode()
    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        input_ids, attention_mask = map(torch.from_numpy, padded(token_ids, self._model.tokenizer.pad_token_id))
        output = self._model({"input_ids": input_ids, "attention_mask": attention_mask})
        return output["sentence_embedding"].float().numpy()


def convert(encoder: Encoder, precision: str, sentences: Sequence[str], folder: Path) -> Path:
    """Write a folder whose modules pool and normalise as the encoder does.

    A folder of the user's own may say something else than the options given, or nothing at all.
    """
    target = folder / "model"
    if not target.exists():
        target.mkdir()
        save_encoder(encoder, target, stock=is_stock(encoder.model.config))
    return target


def load(setup: Setup) -> Runtime:
    """Load with `SentenceTransformer`, on the CPU, with the weights cast once."""
    torch.set_num_threads(setup.threads)
    dtype = getattr(torch, setup.precision)
    model = SentenceTransformer(str(setup.converted or setup.source), device="cpu", model_kwargs={"dtype": dtype})
    inner = model[0].auto_model
    if isinstance(inner, SparseCSEModel):
        # This row is what sentence-transformers does by itself; natively it would compute as our own row does.
        inner.native_forward = None
    return _SentenceTransformers(model.eval())
