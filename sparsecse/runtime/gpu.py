"""`Runtime` on a GPU: packed batches through PyTorch and our attention, small calls as CUDA graphs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from sparsecse.encoders import Encoder, PackedBatch, embedding
from sparsecse.errors import InputError, meant
from sparsecse.runtime.buckets import Bucket, Record, Staging, bucket_size

PRECISIONS = ("float32", "bfloat16", "float16")
# At most this many tokens at a time: a few hundred MiB of activations, and far more than fill a GPU.
TOKEN_BUDGET = 32768


def choose_device(device: str | torch.device | None, own: torch.device) -> torch.device:
    """The device that `Runtime` was asked for; None for the model's own.

    Raises:
        InputError: another kind of device than "cpu" and "cuda", or one that is not here.
    """
    if device is None:
        return own
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"`device` '{device}' is not one of cpu, cuda, cuda:0, cuda:1 and so on.")
    if chosen.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise InputError(
            f"`device` {device}: PyTorch finds no CUDA device here; use cpu, or install the build of PyTorch for your "
            "GPU."
        )
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= count:
        raise InputError(f"`device` {device}: there are {count} CUDA devices here, and they are counted from 0.")
    return torch.device("cuda", index)


def choose_precision(precision: str, capability: tuple[int, int]) -> tuple[str, str]:
    """One of `PRECISIONS`, and in a few words why; "auto" is bfloat16 where the GPU has matrix units for it.

    capability: the GPU's compute capability.

    Raises:
        InputError: a precision that does not exist, or not on this GPU.
    """
    has_bfloat16 = capability >= (8, 0)
    if precision == "auto":
        name = "bfloat16" if has_bfloat16 else "float32"
        return name, f"{name}, the default on a GPU of compute capability {capability[0]}.{capability[1]}"
    if precision == "int8":
        raise InputError("`precision` int8 is computed on the CPU alone; on a GPU use auto, bfloat16 or float16.")
    if precision not in PRECISIONS:
        known = ("auto", *PRECISIONS)
        raise InputError(f"`precision` '{precision}' is not one of {', '.join(known)}.{meant(precision, known)}")
    if precision == "bfloat16" and not has_bfloat16:
        raise InputError(
            f"`precision` bfloat16 needs a GPU of compute capability 8.0 or more, but this one has "
            f"{capability[0]}.{capability[1]}; use float16 or float32."
        )
    return precision, f"{precision}, as asked for"


def record_graph(call: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Capture a call in a CUDA graph, whose replay gives the same tensor with new values."""
    # What kernels do at their first call, compiling among it, cannot be captured, and not on the default stream.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with their own work meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return out

    return replay


class GpuEncoder:
    """A copy of an encoder's weights on a device, in one precision. Threads take turns.

    record: how small calls are recorded; None for not at all.
    """

    def __init__(self, encoder: Encoder, precision: str, device: torch.device, record: Record | None = record_graph):
        own = encoder.copy()
        self._encoder = own.to(device, getattr(torch, precision)).eval().requires_grad_(False)
        self._config = own.model.config
        self._device = device
        self._record = record
        self._buckets: dict[tuple[int, int], Bucket] = {}
        self._lock = threading.Lock()

    def encode_ids(self, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Sentence vectors, float32 [N, dimension], in the order given.

        Raises:
            InputError: a sentence without ids or with more than there are positions, or an id outside the vocabulary.
        """
        ids, lengths = embedding.read_token_ids(token_ids)
        if not len(lengths):
            return np.empty((0, self._encoder.dimension), np.float32)
        # On the host: a wrong index would end all work on the GPU.
        embedding.check_token_ids(ids, lengths, self._config, self._encoder.source)
        positions = self._positions(ids, lengths)
        with self._lock, torch.inference_mode(), self._on_device():
            return self._to_host(self._encode(ids.astype(np.int64), positions, lengths))

    def _encode(self, ids: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        size = bucket_size(len(ids), len(lengths), self._config.max_position_embeddings)
        if size is not None and self._record is not None:
            if size not in self._buckets:
                self._buckets[size] = Bucket(size, self._device, self._forward, self._record)
            try:
                return self._buckets[size](ids, positions, lengths)
            except RuntimeError as error:
                self._record = None
                self._buckets.clear()
                reason = str(error).strip().partition("\n")[0]
                warnings.warn(f"sparsecse embeds without CUDA graphs ({reason}).", RuntimeWarning, stacklevel=4)
        vectors = torch.empty(len(lengths), self._encoder.dimension, device=self._device)
        for sentences, tokens in token_batches(lengths):
            batch = Staging(tokens.stop - tokens.start, sentences.stop - sentences.start, self._device)
            filled = batch.fill(ids[tokens], positions[tokens], lengths[sentences])
            vectors[sentences] = self._forward(filled)
        return vectors

    def _forward(self, batch: PackedBatch) -> torch.Tensor:
        return self._encoder.forward_packed(batch).float()

    def _to_host(self, vectors: torch.Tensor) -> np.ndarray:
        """All vectors in one copy, the only time that the host waits."""
        on_gpu = self._device.type == "cuda"
        host = torch.empty(vectors.shape, pin_memory=on_gpu)
        host.copy_(vectors, non_blocking=True)
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        # Pinned memory is scarce: the caller gets ordinary memory.
        return host.numpy().copy()

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _positions(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """As `Encoder.pack` counts them."""
        offset = self._config.position_offset
        counted = ids != self._config.pad_token_id if offset else np.ones(len(ids), bool)
        count = np.concatenate([[0], np.cumsum(counted)])
        starts = np.cumsum(lengths) - lengths
        return (count[1:] - np.repeat(count[starts], lengths)) * counted + offset - 1


def token_batches(lengths: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Sentences, and their tokens, in order: at most `TOKEN_BUDGET` tokens at a time, or a single sentence."""
    ends = np.cumsum(lengths)
    first = start = 0
    while first < len(lengths):
        last = max(first + 1, int(np.searchsorted(ends, start + TOKEN_BUDGET, side="right")))
        yield slice(first, last), slice(start, int(ends[last - 1]))
        first, start = last, int(ends[last - 1])
