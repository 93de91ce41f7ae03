"""For every packed token its sentence, and where that begins and ends: made once for all layers of a batch."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenMaps:
    """For every token, int32 [tokens]: its sentence, and the tokens this sentence consists of."""

    sentence: Tensor
    begin: Tensor
    end: Tensor


def _locate(cu_lengths: Tensor, tokens: int) -> TokenMaps:
    token = torch.arange(tokens, device=cu_lengths.device)
    # The number of sentences that end at the token or before it: those of no tokens are passed over.
    sentence = torch.searchsorted(cu_lengths[1:], token, right=True, out_int32=True)
    bounds = cu_lengths.int()
    return TokenMaps(sentence, bounds[sentence], bounds[sentence + 1])


class _Shared(threading.local):
    """Of each thread, the tensor whose maps it shares, and the maps once there are any."""

    cu_lengths: Tensor | None = None
    maps: TokenMaps | None = None


_shared = _Shared()
_last: tuple[weakref.ref[Tensor], Any, TokenMaps] | None = None


@contextmanager
def shared_token_maps(cu_lengths: Tensor) -> Iterator[None]:
    """Inside, this tensor's maps are made once, and it must not change.

    Outside they are made once for each version of a tensor. But inference tensors have no versions, and a CUDA graph
    that is replayed must not use what was made before it: there each call would make its own.
    """
    before = _shared.cu_lengths, _shared.maps
    _shared.cu_lengths, _shared.maps = cu_lengths, None
    try:
        yield
    finally:
        _shared.cu_lengths, _shared.maps = before


def token_maps(cu_lengths: Tensor, tokens: int) -> TokenMaps:
    """The maps for as many tokens as cu_lengths [sentences + 1] ends with. Does not wait for the device."""
    if _shared.cu_lengths is not cu_lengths:
        return _remembered(cu_lengths, tokens)
    if _shared.maps is None:
        _shared.maps = _remembered(cu_lengths, tokens)
    return _shared.maps


def _remembered(cu_lengths: Tensor, tokens: int) -> TokenMaps:
    global _last
    on_gpu = cu_lengths.is_cuda
    if cu_lengths.is_inference() or (on_gpu and torch.cuda.is_current_stream_capturing()):
        return _locate(cu_lengths, tokens)
    stream = torch.cuda.current_stream(cu_lengths.device) if on_gpu else None
    state = (cu_lengths._version, tokens, stream)
    last = _last  # another thread may set it at any time
    if last is not None and last[0]() is cu_lengths and last[1] == state:
        return last[2]
    maps = _locate(cu_lengths, tokens)
    _last = (weakref.ref(cu_lengths), state, maps)
    return maps
