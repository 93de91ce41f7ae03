"""Attention over packed sentences against a float64 computation, at every instruction set this machine has."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise

import pytest
import torch
from test_kernels import HALF, relative_error
from torch import Tensor

from sparsecse.encoders.modeling_sparsecse import HIDDEN
from sparsecse.errors import InputError
from sparsecse.kernels import attention, shared_token_maps
from sparsecse.kernels.reference import dropout_mask
from sparsecse.kernels.token_maps import token_maps

MIXED = [3, 0, 5, 1, 17, 2, 16, 33, 48, 15]
# Lengths, heads, head size: one token, empty sentences, rows and keys that fill blocks of 16 and 32 and that do not.
SHAPES = [
    ([1], 1, 8),
    (MIXED, 3, 32),
    ([0, 130, 2, 64, 0], 2, 64),
    ([512, 31], 1, 16),
    ([40, 7], 2, 80),
    ([9, 35], 2, 128),
    ([20, 1], 3, 7),
    ([12], 1, 256),
]


def packed(lengths: list[int], heads: int, head_size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Query, key and value as [total, 3, heads, head_size], in float64, and cu_lengths."""
    generator = torch.Generator().manual_seed(seed)
    fused = torch.randn(sum(lengths), 3, heads, head_size, dtype=torch.float64, generator=generator)
    return fused, torch.tensor([0, *accumulate(lengths)])


def random_bias(heads: int, reach: int) -> Tensor:
    return torch.randn(heads, 2 * reach - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def window_bias(heads: int, reach: int, window: int) -> Tensor:
    """What the model adds where tokens see so many to either side."""
    return (HIDDEN * (torch.arange(1 - reach, reach).abs() > window)).expand(heads, -1)


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_lengths: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """The definition, sentence by sentence."""
    results = []
    for sentence, (start, end) in enumerate(pairwise(cu_lengths.tolist())):
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
        position = torch.arange(end - start)
        logits = q @ k.mT * (query.shape[2] ** -0.5 if scale is None else scale)
        if bias is not None:
            logits = logits + bias[:, bias.shape[1] // 2 + position - position[:, None]]
        weights = logits.softmax(dim=-1)
        if dropout:
            head = torch.arange(query.shape[1])[:, None, None]
            stays = dropout_mask(seed, torch.tensor(sentence), head, position[:, None], position, dropout)
            weights = weights * stays / (1 - dropout)
        result = (weights @ v).transpose(0, 1)
        results.append(result if gate is None else result * gate[sentence, :, None])
    return torch.cat(results)


def random_gate(sentences: int, heads: int) -> Tensor:
    """Some of them closed."""
    gate = torch.rand(sentences, heads, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 0.5
    gate.flatten()[::3] = 0.0
    return gate


def with_gradients(result: Tensor, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    return [result.detach(), *torch.autograd.grad(result, inputs, upstream.to(result.dtype))]


@pytest.mark.parametrize("lengths,heads,head_size", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("extra", ["plain", "bias", "dropout", "gate", "bias, gate and dropout"])
def test_values_and_gradients(
    backend: str, lengths: list[int], heads: int, head_size: int, dtype: torch.dtype, extra: str
) -> None:
    fused, cu_lengths = packed(lengths, heads, head_size)
    fused = fused.to(dtype)
    inputs = [x.requires_grad_() for x in fused.unbind(1)]
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    options, exact_options = {}, {}
    made = {"bias": random_bias(heads, max(lengths) + 3), "gate": random_gate(len(lengths), heads)}
    chosen = [name for name in made if name in extra]
    for name in chosen:
        options[name] = made[name].float().requires_grad_()
        exact_options[name] = options[name].detach().double().requires_grad_()
    if "dropout" in extra:
        options["dropout"] = exact_options["dropout"] = 0.3
        options["seed"] = exact_options["seed"] = -(2**61) - 12345
    result = attention(*inputs, cu_lengths, **options)
    exact = plain_attention(*exact_inputs, cu_lengths, **exact_options)
    assert result.dtype == dtype and result.is_contiguous()
    upstream = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    inputs += [options[name] for name in chosen]
    exact_inputs += [exact_options[name] for name in chosen]
    got = with_gradients(result, inputs, upstream)
    expected = with_gradients(exact, exact_inputs, upstream.double())
    tolerance = 2e-5 if dtype == torch.float32 else 1e-2
    for name, x, y in zip(["out", "query", "key", "value", *chosen], got, expected, strict=True):
        # Of one token alone the probabilities are 1 and their gradients nothing.
        if sum(lengths) > 1 or name in ("out", "value", "gate"):
            assert relative_error(x, y) < tolerance, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_leave_whole_blocks_unseen(backend: str, dtype: torch.dtype) -> None:
    fused, cu_lengths = packed([1, 150, 40], 2, 16)
    inputs = [x.detach().requires_grad_() for x in fused.to(dtype).unbind(1)]
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    result = attention(*inputs, cu_lengths, bias=window_bias(2, 160, 5))
    exact = plain_attention(*exact_inputs, cu_lengths, bias=window_bias(2, 160, 5).double())
    upstream = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = with_gradients(exact, exact_inputs, upstream.double())
    for x, y in zip(with_gradients(result, inputs, upstream), expected, strict=True):
        assert relative_error(x, y) < (2e-5 if dtype == torch.float32 else 1e-2)


def test_gradcheck() -> None:
    fused, cu_lengths = packed([3, 0, 1, 4], 2, 5)
    inputs = [x.clone().requires_grad_() for x in (*fused.unbind(1), random_bias(2, 6), random_gate(4, 2))]
    for dropout in (0.0, 0.3):

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor, dropout: float = dropout) -> Tensor:
            return attention(q, k, v, cu_lengths, bias=bias, gate=gate, dropout=dropout, seed=3)

        assert torch.autograd.gradcheck(attend, inputs)


def test_blocks_of_long_sentences_in_the_reference() -> None:
    """More queries than `reference.BLOCK`, in float64."""
    fused, cu_lengths = packed([1100, 3], 1, 4)
    bias = random_bias(1, 1100).requires_grad_()
    inputs = [*(x.clone().requires_grad_() for x in fused.unbind(1)), bias]
    upstream = torch.ones(1103, 1, 4, dtype=torch.float64).cumsum(0)
    got = with_gradients(attention(*inputs[:3], cu_lengths, bias=bias, dropout=0.1), inputs, upstream)
    expected = with_gradients(plain_attention(*inputs[:3], cu_lengths, bias=bias, dropout=0.1), inputs, upstream)
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_operator_keeps_torchs_rules(dtype: torch.dtype) -> None:
    fused, cu_lengths = packed([3, 0, 2, 4], 2, 6)
    inputs = [x.to(dtype).requires_grad_() for x in fused.unbind(1)]
    bias = random_bias(2, 4).to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    gate = random_gate(4, 2).to(bias.dtype).requires_grad_()
    for rest in (
        (bias, None, 0.5, 0.1, 7),
        (bias, gate, 0.5, 0.1, 7),
        (None, gate, 0.5, 0.0, 0),
        (None, None, 0.5, 0.0, 0),
    ):
        torch.library.opcheck(torch.ops.sparsecse.attention_forward.default, (*inputs, cu_lengths, *rest))


def test_compiles_into_one_graph(backend: str) -> None:
    fused, cu_lengths = packed(MIXED, 2, 16)
    bias = random_bias(2, 50).float().requires_grad_()
    inputs = [x.float().requires_grad_() for x in fused.unbind(1)]

    inputs += [bias, random_gate(len(MIXED), 2).float().requires_grad_()]

    def loss(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, gate: Tensor, seed: int) -> Tensor:
        return attention(q, k, v, cu_lengths, bias=bias, gate=gate, dropout=0.1, seed=seed).square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    for seed in (1, 2, 2**61):
        expected = with_gradients(loss(*inputs, seed), inputs, torch.tensor(1.0))
        for x, y in zip(with_gradients(compiled(*inputs, seed), inputs, torch.tensor(1.0)), expected, strict=True):
            torch.testing.assert_close(x, y)


def test_results_do_not_depend_on_the_number_of_threads_or_on_the_other_sentences(backend: str) -> None:
    if backend == "reference":
        pytest.skip("PyTorch promises no such thing")
    lengths = [17, 200, 5, 33, 150, 64, *([12] * 40)]
    fused, cu_lengths = packed(lengths, 3, 32)
    bias = random_bias(3, 200).float().requires_grad_()
    before = torch.get_num_threads()
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [x.to(dtype).requires_grad_() for x in fused.unbind(1)]
        results = []
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            out = attention(*inputs, cu_lengths, bias=bias, dropout=0.1, seed=5)
            results.append(with_gradients(out, [*inputs, bias], torch.ones(out.shape).cumsum(0) % 7))
        torch.set_num_threads(before)
        assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(other, results[0], strict=True))
        everything = attention(*inputs, cu_lengths)
        for start, end in list(pairwise(cu_lengths.tolist()))[:6]:
            alone = attention(*(x[start:end] for x in inputs), torch.tensor([0, end - start]))
            assert torch.equal(alone, everything[start:end])


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_views(backend: str, dtype: torch.dtype) -> None:
    """Slices of one projection as they are, and views that no kernel takes without a copy."""
    fused, cu_lengths = packed(MIXED, 4, 32)
    fused = fused.to(dtype)
    expected = attention(*(x.contiguous() for x in fused.unbind(1)), cu_lengths)
    assert torch.equal(attention(*fused.unbind(1), cu_lengths), expected)
    wide = torch.cat([fused.flatten(1), fused.flatten(1)[:, :5]], dim=1)
    slices = [wide[:, i * 128 : (i + 1) * 128].unflatten(1, (4, 32)) for i in range(3)]
    assert torch.equal(attention(*slices, cu_lengths), expected)
    query, key, value = fused.unbind(1)
    by_head = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (query, key, value)]
    assert torch.equal(attention(*by_head, cu_lengths), expected)
    assert torch.equal(attention(query, key.contiguous(), value, cu_lengths), expected)
    every_second = attention(query[:, ::2], key[:, ::2], value[:, ::2], cu_lengths)
    if backend == "reference":  # PyTorch's products round otherwise for other shapes on some processors
        torch.testing.assert_close(every_second, expected[:, ::2])
    else:
        assert torch.equal(every_second, expected[:, ::2])
    spread = value[:1].expand(value.shape)
    torch.testing.assert_close(attention(query, key, spread, cu_lengths), spread.contiguous(), rtol=1e-2, atol=1e-6)
    for one in ([1], [5]):  # strides of dimensions of one element say nothing
        few = [x[: one[0], :1].clone().as_strided((one[0], 1, 32), (32, 7, 1)) for x in (query, key, value)]
        assert attention(*few, torch.tensor([0, *one])).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("head_size", [32, 24])
def test_nan_and_infinity_stay_in_their_sentence(backend: str, dtype: torch.dtype, head_size: int) -> None:
    lengths = [17, 5, 40, 16, 33]
    for which in range(3):
        for bad in (math.nan, math.inf):
            for sentence in range(len(lengths)):
                fused, cu_lengths = packed(lengths, 2, head_size)
                start, end = cu_lengths[sentence : sentence + 2].tolist()
                fused[end - 1, which, 0, 3] = bad
                inputs = [x.to(dtype).requires_grad_() for x in fused.unbind(1)]
                out = attention(*inputs, cu_lengths)
                inside = torch.zeros(len(out), dtype=torch.bool)
                inside[start:end] = True
                for x in with_gradients(out, inputs, torch.ones(out.shape)):
                    assert x[~inside].isfinite().all()
                if math.isnan(bad):
                    # All queries meet the last key and value, the last query's token alone meets that query.
                    touched = out[end - 1 : end] if which == 0 else out[start:end]
                    assert touched[:, 0].isnan().any(dim=-1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_denormals(backend: str, dtype: torch.dtype) -> None:
    fused, cu_lengths = packed(MIXED, 2, 32)
    query, key, value = (x.to(dtype) for x in fused.unbind(1))
    tiny = attention(query * 1e-39, key * 1e-39, value, cu_lengths)
    mean = plain_attention(query.double() * 0, key.double(), value.double(), cu_lengths)
    assert relative_error(tiny, mean) < (1e-6 if dtype == torch.float32 else 1e-2)
    assert float(attention(query, key, value * 1e-39, cu_lengths).abs().max()) < 1e-38


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("scale", [300.0, -300.0])
def test_large_logits_do_not_overflow(backend: str, dtype: torch.dtype, scale: float) -> None:
    fused, cu_lengths = packed([17, 70, 3], 2, 32)
    inputs = [x.to(dtype).requires_grad_() for x in fused.unbind(1)]
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    out = attention(*inputs, cu_lengths, scale=scale)
    exact = plain_attention(*exact_inputs, cu_lengths, scale=scale)
    # Logits of thousands carry float32's rounding of them into the exponent.
    assert relative_error(out.detach(), exact.detach()) < (1e-3 if dtype == torch.float32 else 1e-2)
    assert all(x.isfinite().all() for x in with_gradients(out, inputs, torch.ones(out.shape)))


def test_biases_of_minus_infinity_mask(backend: str) -> None:
    """Infinitely low biases for all later keys make attention causal."""
    fused, cu_lengths = packed(MIXED, 2, 16)
    inputs = [x.float() for x in fused.unbind(1)]
    bias = torch.zeros(2, 2 * 48 - 1)
    bias[:, 48:] = -math.inf
    out = attention(*inputs, cu_lengths, bias=bias)
    expected = plain_attention(*(x.double() for x in inputs), cu_lengths, bias=bias.double())
    assert relative_error(out, expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_every_implementation_drops_the_same(backend: str, dtype: torch.dtype) -> None:
    lengths = [64, 33, 5, 48]
    fused, cu_lengths = packed(lengths, 3, 64)
    query, key = (0.1 * x.to(dtype) for x in fused.unbind(1)[:2])
    # Values that show the probabilities: those of the j-th token are 1 in coordinate j.
    value = torch.cat([torch.eye(n, 64) for n in lengths]).to(dtype)[:, None].expand(-1, 3, -1)
    for seed in (0, 1, -3, 2**62 + 5, 2**33):
        out = attention(query, key, value, cu_lengths, dropout=0.25, seed=seed)
        for sentence, (start, end) in enumerate(pairwise(cu_lengths.tolist())):
            position = torch.arange(end - start)
            stays = dropout_mask(
                seed, torch.tensor(sentence), torch.arange(3)[:, None], position[:, None, None], position, 0.25
            )
            assert torch.equal(out[start:end, :, : end - start] != 0, stays)


def test_dropout_is_as_frequent_as_asked_and_without_pattern() -> None:
    index = [torch.arange(n) for n in (20, 12, 64, 64)]
    sentence, head, query, key = (x.reshape([-1 if d == i else 1 for d in range(4)]) for i, x in enumerate(index))
    masks = [dropout_mask(seed, sentence, head, query, key, 0.1).double() for seed in (0, 1, 2**32)]
    for mask in masks:
        assert float(mask.mean()) == pytest.approx(0.9, abs=0.001)
        for axis in range(4):
            others = [d for d in range(4) if d != axis]
            count = mask.numel() / mask.shape[axis]
            # No slice is off by more than chance: five standard deviations.
            assert float((mask.mean(dim=others) - 0.9).abs().max()) < 5 * math.sqrt(0.09 / count)
            rolled = mask.roll(1, dims=axis)
            assert float((mask * rolled).mean()) == pytest.approx(0.81, abs=0.002)
    assert float((masks[0] * masks[1]).mean()) == pytest.approx(0.81, abs=0.002)
    assert float((masks[0] * masks[2]).mean()) == pytest.approx(0.81, abs=0.002)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF, torch.float64])
def test_nothing_in_nothing_out(dtype: torch.dtype) -> None:
    for tokens, heads in ((0, 2), (3, 0), (0, 0)):
        x = torch.ones(tokens, heads, 8, dtype=dtype, requires_grad=True)
        bias = torch.ones(heads, 5, requires_grad=True)
        for cu_lengths in (torch.tensor([0, tokens]), torch.tensor([0, 0, tokens, tokens])):
            gate = torch.ones(len(cu_lengths) - 1, heads, dtype=dtype, requires_grad=True)
            out = attention(x, x, x, cu_lengths, bias=bias, gate=gate)
            assert out.shape == x.shape and out.dtype == dtype
            grad, grad_bias, grad_gate = torch.autograd.grad(out.sum(), [x, bias, gate])
            assert grad.shape == x.shape and not grad_bias.any()
            assert grad_gate.dtype == dtype and float(grad_gate.sum()) == x.numel()
    nothing = torch.ones(0, 2, 8, dtype=dtype)
    assert attention(nothing, nothing, nothing, torch.tensor([0])).shape == (0, 2, 8)


def test_wrong_input_is_refused_in_one_sentence(backend: str) -> None:
    x = torch.ones(6, 2, 8)
    cu_lengths = torch.tensor([0, 2, 6])
    for query, key in ((x[:, 0], x[:, 0]), (x, x[:5]), (x[..., :0], x[..., :0])):
        with pytest.raises(InputError, match="one shape"):
            attention(query, key, query, cu_lengths)
    for query in (x.double(), x.long()):
        with pytest.raises(InputError, match="dtype"):
            attention(query, x, x, cu_lengths)
    for wrong in (cu_lengths.int(), cu_lengths[None], cu_lengths[:0]):
        with pytest.raises(InputError, match="int64"):
            attention(x, x, x, wrong)
    for wrong, message in (([0, 2, 5], "from 0"), ([1, 6], "from 0"), ([0, 7], "from 0"), ([0, 4, 2, 6], "fall")):
        with pytest.raises(InputError, match=message):
            attention(x, x, x, torch.tensor(wrong))
    for bias in (torch.ones(7), torch.ones(3, 7), torch.ones(2, 6)):
        with pytest.raises(InputError, match="reach"):
            attention(x, x, x, cu_lengths, bias=bias)
    for gate in (torch.ones(2), torch.ones(3, 2), torch.ones(2, 3)):
        with pytest.raises(InputError, match=r"\[2 sentences, 2 heads\]"):
            attention(x, x, x, cu_lengths, gate=gate)
    with pytest.raises(InputError, match="7 columns"):
        attention(x, x, x, cu_lengths, bias=torch.ones(2, 5))
    for dropout in (-0.1, 1.0, math.nan):
        with pytest.raises(InputError, match="dropout"):
            attention(x, x, x, cu_lengths, dropout=dropout)


def test_token_maps_follow_the_lengths() -> None:
    cu_lengths = torch.tensor([0, 0, 2, 2, 5, 5])
    maps = token_maps(cu_lengths, 5)
    assert maps.sentence.tolist() == [1, 1, 3, 3, 3]
    assert maps.begin.tolist() == [0, 0, 2, 2, 2] and maps.end.tolist() == [2, 2, 5, 5, 5]
    assert token_maps(cu_lengths, 5) is maps
    cu_lengths[1] = 1
    assert token_maps(cu_lengths, 5).sentence.tolist() == [0, 1, 3, 3, 3]
    with torch.inference_mode():
        untold = torch.tensor([0, 1, 2])
        assert token_maps(untold, 2).begin.tolist() == [0, 1]
        untold[1] = 2
        assert token_maps(untold, 2).begin.tolist() == [0, 0]


def test_token_maps_are_shared_where_asked() -> None:
    with torch.inference_mode():
        one, other = torch.tensor([0, 1, 2]), torch.tensor([0, 2])
        with shared_token_maps(one):
            maps = token_maps(one, 2)
            assert maps.begin.tolist() == [0, 1] and token_maps(one, 2) is maps
            assert token_maps(other, 2) is not token_maps(other, 2)
            with shared_token_maps(other):
                assert token_maps(other, 2) is token_maps(other, 2)
            assert token_maps(one, 2) is maps
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(token_maps, one, 2).result() is not maps
        assert token_maps(one, 2) is not maps
