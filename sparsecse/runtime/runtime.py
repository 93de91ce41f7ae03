"""`Runtime`: an encoder ready to embed sentences fast."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sparsecse.encoders import Encoder, embedding, load_encoder
from sparsecse.encoders.checkpoints import check_weights
from sparsecse.encoders.pooling import pool_tokens
from sparsecse.errors import InputError
from sparsecse.forking import apart, past_fork
from sparsecse.processors import check_threads, default_threads
from sparsecse.runtime import gpu, native
from sparsecse.runtime.calibration import LayerScales
from sparsecse.runtime.precision import choose
from sparsecse.runtime.tokenization import BLOCK, Tokenize

# The pooling inside the native pass; others pool the token vectors that it returns.
_POOLING = {"mean": "mean", "cls": "cls", "pooler": "cls", "first_last_avg": "first_last_avg"}


class Runtime:
    """An encoder for inference: the tokens of all sentences in one matrix, without padding.

    The weights are copied when it is made, on the CPU into the native encoder's own layout, and later changes of the
    model are not seen. (The embeddings of an `encoder` that it loaded itself are not copied: do not write to them.)
    Where the native encoder cannot run (no compiled extension, an activation it does not have) the same methods compute
    with PyTorch in float32, and a warning says so once. On a GPU they compute with PyTorch and the Triton kernels.
    Several threads may use one Runtime at a time, and so may forked processes. It can be pickled and copied: what is
    made from it has its precision and is built from `encoder` as it is then.

    Args:
        model: an `Encoder`, or what `load_encoder` takes: a folder or a hub id.
        precision: "float32", "bfloat16" or "int8" (per-token activations, per-output weights; both only where the
            processor computes them natively), or "auto": the fastest of those whose vectors, on the built-in
            sentences, have a mean cosine of `AUTO_COSINE` or more to float32's. "auto" times them, so that it takes a
            moment longer to load. On a GPU "float32", "bfloat16" or "float16", and "auto" is bfloat16 from compute
            capability 8.0 on and float32 below it.
        threads: processor threads; by default `torch.get_num_threads()` at the time of each call, but no more than the
            process has processors by its affinity mask and its control group's quota.
        device: "cpu", "cuda" or "cuda:1" and so on; by default the one that the model is on.
        truncate_dim: values kept of each vector, from the first (Matryoshka); by default the model's own number.
        load_options: options of `load_encoder`, where `model` is not an `Encoder`.

    Attributes:
        encoder: the `Encoder` it was made from, or its copy on the CPU or of another width where that was asked for.
        device: the device that it computes on.
        precision: the precision that it computes in.
        reason: in a few words, why that one.

    Raises:
        InputError: a model that cannot be loaded or whose weights are not finite, or a precision or device that does
            not exist or not on this machine.
    """

    def __init__(
        self,
        model: Encoder | str | Path,
        precision: str = "auto",
        threads: int | None = None,
        device: str | torch.device | None = None,
        truncate_dim: int | None = None,
        **load_options: Any,
    ):
        self._threads = check_threads(threads)
        if isinstance(model, Encoder):
            check_weights(model.model, model.source)
            self.encoder = model if truncate_dim is None else model.truncated(truncate_dim)
        else:
            self.encoder = apart(load_encoder, model, truncate_dim=truncate_dim, **load_options)
        # Whether the encoder is somebody else's, who may train it or send it elsewhere.
        self._borrowed = isinstance(model, Encoder)
        self._tokenize = Tokenize(self.encoder)
        self._scales: list[LayerScales] | None = None
        self.device = gpu.choose_device(device, self.encoder.device)
        self._build(precision)

    def _build(self, precision: str) -> None:
        self._native: Any = None
        self._gpu: gpu.GpuEncoder | None = None
        if self.device.type == "cuda":
            self._obstacle: str | None = f"this Runtime is on {self.device}"
            capability = torch.cuda.get_device_capability(self.device)
            self.precision, self.reason = gpu.choose_precision(precision, capability)
            self._gpu = gpu.GpuEncoder(self.encoder, self.precision, self.device)
            return
        if self.device != self.encoder.device:
            self.encoder, self._borrowed = copy.deepcopy(self.encoder).to(self.device), False
        self._obstacle = native.obstacle(self.encoder.model)
        if self._obstacle is None:
            read = native.with_own_embeddings(self.encoder) if self._borrowed else self.encoder
            choice = apart(choose, read, precision, self.threads, self._scales)
            if not self._borrowed:
                native.lend_embeddings(self.encoder.model)
            self.precision, self.reason = choice.precision, choice.reason
            self._native, self._scales = choice.encoder, choice.scales
            pooler = self.encoder.model.pooler if self.encoder.settings.pooling == "pooler" else None
            after = nn.Sequential(*(() if pooler is None else (pooler,)), *self.encoder.head)
            self._after = copy.deepcopy(after).float().requires_grad_(False)
            return
        if precision not in ("auto", "float32"):
            raise InputError(f"`precision` {precision} needs the native encoder, but {self._obstacle}; use float32.")
        if self.encoder.device.type == "cpu":
            native.warn_once(self._obstacle)
        self.precision, self.reason = "float32", f"float32 through PyTorch, as {self._obstacle}"

    def __getstate__(self) -> dict[str, Any]:
        # The encoder as bytes: multiprocessing would move its tensors into shared memory, of which there may be little.
        rebuilt = ("_native", "_gpu", "_tokenize", "_after")
        kept = {name: value for name, value in vars(self).items() if name not in rebuilt}
        return {**kept, "encoder": pickle.dumps(self.encoder)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.encoder, self._borrowed = pickle.loads(state["encoder"]), False
        self._tokenize = Tokenize(self.encoder)
        # Another machine may lack the device or the precision, and says so.
        self.device = gpu.choose_device(self.device, self.encoder.device)
        self._build(self.precision)
        if self._obstacle == state["_obstacle"]:
            self.reason = state["reason"]

    @property
    def threads(self) -> int:
        """The threads that the next call will use."""
        return self._threads or default_threads(torch.get_num_threads())

    @property
    def dimension(self) -> int:
        """The size of the vectors that `encode` and `encode_ids` give."""
        return self.encoder.width()

    @past_fork
    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = False,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray | torch.Tensor:
        """Sentence vectors of texts, float32: [N, dimension], or [dimension] for a single string.

        An array, or a tensor on the CPU where `convert_to_tensor` asks for one. The tokenizer works on the next
        sentences while these are computed.

        Args:
            batch_size: sentences tokenised and handed over at a time, by default 1024; of these as many are computed
                together as suits the processor.
            convert_to_numpy: return an array, which is the default.
            convert_to_tensor: return a tensor.
            progress: called with (sentences done, sentences in all) now and then.
            sentences, prompt_name, prompt, show_progress_bar, normalize_embeddings, truncate_dim: see
                `Encoder.encode`.

        Raises:
            InputError: an item that is not a string, an unknown `prompt_name`, a size out of range, or a vector that is
                not finite.
        """
        texts, single = embedding.read_sentences(sentences)
        size = BLOCK if batch_size is None else batch_size
        embedding.check_batch_size(size)
        prompt = self.encoder.settings.prompt_text(prompt, prompt_name)
        width = self.encoder.width(truncate_dim)
        vectors = np.empty((len(texts), width), np.float32)
        done = 0
        with embedding.progress_bar(show_progress_bar, progress) as report:
            for token_ids in self._tokenize.blocks(texts, prompt, size):
                vectors[done : done + len(token_ids)] = self._embed(token_ids, done)[:, :width]
                done += len(token_ids)
                if report is not None:
                    report(done, len(texts))
        found = torch.from_numpy(vectors)
        if normalize_embeddings:
            found = F.normalize(found, dim=-1)
        if single:
            found = found[0]
        return found if convert_to_tensor else found.numpy()

    @past_fork
    def encode_ids(self, token_ids: Sequence[Sequence[int]], *, truncate_dim: int | None = None) -> np.ndarray:
        """Sentence vectors, float32 [N, dimension], of token ids with their special tokens.

        token_ids: for each sentence a list, tuple, array or tensor of whole numbers; or an array or tensor
            [N, length], of which every id counts.
        truncate_dim: values kept of each vector; by default the model's own number.

        Raises:
            InputError: ids that are no whole numbers of the vocabulary, a sentence without ids or with more than there
                are positions, a `truncate_dim` out of range, or a vector that is not finite.
        """
        width = self.encoder.width(truncate_dim)
        return np.ascontiguousarray(self._embed(token_ids, 0)[:, :width])

    def _embed(self, token_ids: Sequence[Sequence[int]], first: int) -> np.ndarray:
        """Whole vectors [N, size]; first: the position of the first sentence, for messages."""
        settings, source = self.encoder.settings, self.encoder.source
        if self._gpu is not None:
            return embedding.check_finite(self._gpu.encode_ids(token_ids), source, first)
        if self._native is None:
            return self.encoder.encode_ids(token_ids, truncate_dim=self.encoder.dimension).cpu().numpy()
        ids, lengths = embedding.read_token_ids(token_ids)
        inside = _POOLING.get(settings.pooling)
        if inside and not len(self._after):
            vectors = self._run(ids, lengths, inside, settings.normalize)
        elif inside:
            vectors = self._finish(self._run(ids, lengths, inside, False))
        else:
            vectors = self._finish(self._pool(ids, lengths, settings.pooling))
        return embedding.check_finite(vectors, source, first)

    @past_fork
    def hidden_states(self, token_ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The last layer's token vectors of each sentence, float32 [length, hidden_size].

        Raises:
            InputError: as `encode_ids`, or where the native encoder cannot run.
        """
        if self._native is None:
            raise InputError(f"Token vectors need the native encoder, but {self._obstacle}.")
        ids, lengths = embedding.read_token_ids(token_ids)
        if not len(lengths):
            return []
        states = np.split(self._run(ids, lengths, "none", False), np.cumsum(lengths)[:-1])
        for position, state in enumerate(states):
            embedding.check_finite(state[None], self.encoder.source, position)
        return states

    def _run(self, ids: np.ndarray, lengths: np.ndarray, pooling: str, normalize: bool) -> np.ndarray:
        rows = len(ids) if pooling == "none" else len(lengths)
        out = np.empty((rows, self.encoder.model.config.hidden_size), np.float32)
        try:
            self._native.encode(ids, lengths, pooling, normalize, out, self.threads)
        except ValueError as error:
            raise InputError(f"{self.encoder.source}: {error}; tokenise with the model's own tokenizer.") from None
        return out

    def _pool(self, ids: np.ndarray, lengths: np.ndarray, mode: str) -> np.ndarray:
        """Pool token vectors here, some sentences at a time."""
        vectors = np.empty((len(lengths), self.encoder.model.config.hidden_size), np.float32)
        for sentences, tokens in gpu.token_batches(lengths):
            states = torch.from_numpy(self._run(ids[tokens], lengths[sentences], "none", False))
            cu_lengths = F.pad(torch.from_numpy(lengths[sentences]).cumsum(dim=0), (1, 0))
            vectors[sentences] = pool_tokens(states, cu_lengths, mode).numpy()
        return vectors

    def _finish(self, pooled: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            vectors = self._after(torch.from_numpy(pooled))
            if self.encoder.settings.normalize:
                vectors = F.normalize(vectors, dim=-1)
        return vectors.numpy()
