"""Section `attention` of gpu.py: many short sentences, packed and padded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from gpu_timing import DEVICE, PRECISIONS, Options, Row, timed
from torch import Tensor

from sparsecse.kernels import attention

# Sentences in a padded batch where they are sorted by length.
SORTED_BATCH = 256
# Heads and head size of all-MiniLM-L6-v2 and of BERT base.
SHAPES = [(12, 32), (12, 64)]


def random_lengths(sentences: int) -> list[int]:
    """5 to 64 tokens, the same ones every time."""
    return torch.randint(5, 65, (sentences,), generator=torch.Generator().manual_seed(0)).tolist()


@dataclass(frozen=True)
class Packed:
    """Query, key, value and the gradient from above, [tokens, heads, head_size] each, and where sentences begin."""

    inputs: tuple[Tensor, Tensor, Tensor]
    upstream: Tensor
    cu_lengths: Tensor

    @classmethod
    def random(cls, lengths: Sequence[int], heads: int, head_size: int, dtype: torch.dtype, device: str) -> Packed:
        generator = torch.Generator(device).manual_seed(0)
        shape = (4, sum(lengths), heads, head_size)
        query, key, value, upstream = torch.randn(shape, generator=generator, device=device).to(dtype)
        cu_lengths = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(device)
        return cls((query.requires_grad_(), key.requires_grad_(), value.requires_grad_()), upstream, cu_lengths)


@dataclass(frozen=True)
class Padded:
    """Some of those sentences as one batch of [sentences, heads, longest, head_size].

    mask: [sentences, 1, 1, longest], True at tokens; rows: [tokens], which of the packed ones those are.
    """

    inputs: tuple[Tensor, Tensor, Tensor]
    upstream: Tensor
    mask: Tensor
    rows: Tensor

    @classmethod
    def of(cls, packed: Packed, sentences: Tensor) -> Padded:
        starts, lengths = packed.cu_lengths[sentences], packed.cu_lengths.diff()[sentences]
        position = torch.arange(int(lengths.max()), device=starts.device)
        mask = position < lengths[:, None]
        rows = (starts[:, None] + position)[mask]

        def pad(x: Tensor) -> Tensor:
            padded = x.new_zeros(*mask.shape, *x.shape[1:])
            padded[mask] = x.detach()[rows]
            return padded.transpose(1, 2).contiguous()

        query, key, value = (pad(x).requires_grad_() for x in packed.inputs)
        return cls((query, key, value), pad(packed.upstream), mask[:, None, None], rows)

    def unpad(self, x: Tensor, into: Tensor) -> None:
        into[self.rows] = x.detach().transpose(1, 2)[self.mask[:, 0, 0]]


Attend = Callable[..., Tensor]


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def run_padded(batches: Sequence[Padded], attend: Attend, backward: bool) -> list[Tensor]:
    """Results of all batches, then with `backward` the gradients of their queries, keys and values."""
    outs = [attend(*batch.inputs, batch.mask) for batch in batches]
    if not backward:
        return outs
    leaves = [x for batch in batches for x in batch.inputs]
    return outs + list(torch.autograd.grad(outs, leaves, [batch.upstream for batch in batches]))


def run_packed(packed: Packed, attend: Attend, backward: bool) -> list[Tensor]:
    """The same of packed sentences."""
    out = attend(*packed.inputs)
    return [out, *torch.autograd.grad(out, packed.inputs, packed.upstream)] if backward else [out]


def without_gradients(call: Callable[[], list[Tensor]]) -> list[Tensor]:
    with torch.no_grad():
        return call()


def padded_batches(packed: Packed) -> dict[str, list[Padded]]:
    """As they come in one batch, and sorted by length in several."""
    lengths = packed.cu_lengths.diff()
    order = lengths.argsort(stable=True)
    return {
        "SDPA padded": [Padded.of(packed, torch.arange(len(lengths), device=lengths.device))],
        "SDPA padded, sorted": [Padded.of(packed, rows) for rows in order.split(SORTED_BATCH)],
    }


def contenders(packed: Packed, backward: bool, compiled: bool = True) -> dict[str, Callable[[], list[Tensor]]]:
    """Ours first. What is padded is so before the clock starts, as are masks and our maps of tokens.

    compiled: whether what torch.compile makes of SDPA competes.
    """
    calls: dict[str, Callable[[], list[Tensor]]] = {
        "sparsecse": partial(run_packed, packed, partial(attention, cu_lengths=packed.cu_lengths), backward)
    }
    by_torch = torch.compile(sdpa, dynamic=True) if compiled else None
    for name, batches in padded_batches(packed).items():
        calls[name] = partial(run_padded, batches, sdpa, backward)
        if by_torch is not None:
            calls[f"{name}, compiled"] = partial(run_padded, batches, by_torch, backward)
    if packed.upstream.is_cuda and packed.upstream.dtype != torch.float32:
        calls |= {name: partial(run_packed, packed, attend, backward) for name, attend in flash(packed).items()}
    return calls if backward else {name: partial(without_gradients, call) for name, call in calls.items()}


def flash(packed: Packed) -> dict[str, Attend]:
    """Flash attention over packed sentences, where it is installed, and PyTorch's own, where it has it."""
    found: dict[str, Attend] = {}
    bounds, longest = packed.cu_lengths.int(), int(packed.cu_lengths.diff().max())
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_varlen_func

        options = {"cu_seqlens_q": bounds, "cu_seqlens_k": bounds, "max_seqlen_q": longest, "max_seqlen_k": longest}
        found["flash varlen"] = partial(flash_attn_varlen_func, **options)
    if importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        from torch.nn.attention.varlen import varlen_attn

        found["flash varlen, of PyTorch"] = partial(
            varlen_attn, cu_seq_q=bounds, cu_seq_k=bounds, max_q=longest, max_k=longest
        )
    return found


def attention_rows(options: Options) -> Iterator[Row]:
    lengths = random_lengths(options.sentences)
    tokens, squares = sum(lengths), sum(n * n for n in lengths)
    for heads, head_size in SHAPES:
        for product, dtype, _ in PRECISIONS:
            packed = Packed.random(lengths, heads, head_size, dtype, DEVICE)
            elements = tokens * heads * head_size
            for backward in (False, True):
                # Reads of three and one write; then again reads of those four and the gradient, and three writes.
                flops = (14.0 if backward else 4.0) * squares * heads * head_size
                traffic = (12.0 if backward else 4.0) * elements * packed.upstream.element_size()
                shape = f"{options.sentences} {heads}x{head_size} " + ("with gradients" if backward else "forward")
                calls: dict[str, Callable[[], object]] = {**contenders(packed, backward)}
                yield from timed("attention", shape, product, calls, flops, traffic, elements, options.repeats)


def wrong_attention(device: str = DEVICE) -> list[str]:
    """Ours against float64: what misses its tolerance, in words."""
    wrong = []
    lengths = [*random_lengths(200), 1, 0, 130, 512]
    for heads, head_size in [*SHAPES, (3, 24), (2, 128)]:
        for dtype, limit in {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}.items():
            packed = Packed.random(lengths, heads, head_size, dtype, device)
            query, key, value = (x.detach().double().requires_grad_() for x in packed.inputs)
            exact = Packed((query, key, value), packed.upstream.double(), packed.cu_lengths)
            results = [run_packed(x, partial(attention, cu_lengths=x.cu_lengths), True) for x in (packed, exact)]
            results = [[x.detach() for x in result] for result in results]
            errors = [float((x - y).norm() / y.norm()) for x, y in zip(*results, strict=True)]
            # Written so that NaN is wrong.
            if not max(errors) <= limit:
                wrong.append(f"attention {heads}x{head_size} {dtype}: result and gradients {errors}")
    return wrong
