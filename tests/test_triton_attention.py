"""The Triton kernels of attention: interpreted against a float64 computation, and compiled ahead of time for real GPUs.

`TRITON_INTERPRET=1` interprets every kernel of a process, and an interpreted one cannot be compiled.
"""

import math
from itertools import product

import pytest
import torch
from test_attention import packed, plain_attention, random_bias, window_bias
from test_kernels import relative_error
from torch import Tensor
from triton_aot import compile_kernel

pytest.importorskip("triton")

from sparsecse.kernels import attention, reference, triton_attention
from sparsecse.kernels.reference import AttentionInputs
from sparsecse.kernels.triton_support import ARCHITECTURES, choose_config, interpreting

interpreted = pytest.mark.skipif(not interpreting(), reason="needs TRITON_INTERPRET=1")
compiled = pytest.mark.skipif(interpreting(), reason="an interpreted kernel cannot be compiled")

SHORT = [3, 0, 5, 1, 17, 2, 16, 33, 48, 15, 0]
SEED = -(2**61) - 12345
# Lengths, heads, head size: one token, empty sentences, tiles of one sentence and of many, every padding of a head.
SHAPES = [
    ([1], 1, 16),
    (SHORT, 3, 32),
    ([17, 65], 2, 24),
    ([0, 65, 2, 64, 0], 2, 64),
    ([40, 7, 1], 2, 80),
    ([9, 35], 1, 128),
    ([200], 1, 32),
]


class Case:
    """Inputs of one shape, and what plain PyTorch makes of them in float64."""

    def __init__(
        self,
        lengths: list[int],
        heads: int,
        head_size: int,
        dtype: torch.dtype = torch.float32,
        *,
        bias: bool = False,
        window: int | None = None,
        dropout: float = 0.0,
        gate: Tensor | None = None,
    ) -> None:
        fused, self.cu_lengths = packed(lengths, heads, head_size)
        self.inputs = fused.to(dtype).unbind(1)
        self.bias = random_bias(heads, max(lengths) + 3).float() if bias else None
        if window is not None:
            self.bias = window_bias(heads, max(lengths) + 3, window)
        self.gate = gate
        self.scale, self.dropout = head_size**-0.5, dropout
        self.upstream = torch.randn(self.inputs[0].shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        extras = [x for x in (self.bias, self.gate) if x is not None]
        exact = [x.double().requires_grad_() for x in (*self.inputs, *extras)]
        query, key, value = exact[:3]
        exact_bias = None if self.bias is None else exact[3]
        out = plain_attention(query, key, value, self.cu_lengths, bias=exact_bias, dropout=dropout, seed=SEED)
        if gate is not None:
            out = out * torch.repeat_interleave(exact[-1], self.cu_lengths.diff(), dim=0)[..., None]
        self.exact = [out.detach(), *torch.autograd.grad(out, exact, self.upstream.double())]

    def run(self) -> tuple[list[Tensor], Tensor]:
        """The result with its gradients, in the order of `exact`, and lse."""
        x = AttentionInputs(*self.inputs, self.cu_lengths, self.bias, self.gate, self.scale, self.dropout, SEED)
        out, lse = triton_attention.attention_forward(x)
        grads = triton_attention.attention_backward(x, out, lse, self.upstream)
        return [out, *grads[:3], *(x for x in grads[3:] if x.numel())], lse

    def check(self) -> None:
        got, _ = self.run()
        assert len(got) == len(self.exact) and all(x.dtype == self.inputs[0].dtype for x in got[:4])
        tolerance = 1e-5 if self.inputs[0].dtype == torch.float32 else 1e-2
        for position, (x, y) in enumerate(zip(got, self.exact, strict=True)):
            # Of one token alone the probabilities are 1 and their gradients nothing.
            if y.abs().max() > 1e-12:
                assert relative_error(x, y) < tolerance, position
            else:
                assert float(x.abs().max()) < 1e-5


@interpreted
@pytest.mark.parametrize("lengths,heads,head_size", SHAPES)
def test_values_and_gradients(lengths: list[int], heads: int, head_size: int) -> None:
    Case(lengths, heads, head_size).check()


@interpreted
@pytest.mark.parametrize(
    "dtype,bias,dropout",
    [(torch.float32, True, 0.3), (torch.bfloat16, True, 0.0), (torch.bfloat16, False, 0.3), (torch.float16, True, 0.3)],
)
def test_bias_and_dropout(dtype: torch.dtype, bias: bool, dropout: float) -> None:
    Case([20, 0, 65, 3], 2, 24, dtype, bias=bias, dropout=dropout).check()


@interpreted
def test_windows_leave_whole_tiles_unseen() -> None:
    Case([150, 3], 1, 16, window=5).check()


@interpreted
@pytest.mark.parametrize("dtype,bias,dropout", [(torch.float32, True, 0.3), (torch.bfloat16, False, 0.0)])
def test_gates_and_their_gradients(dtype: torch.dtype, bias: bool, dropout: float) -> None:
    gate = torch.rand(len(SHORT), 3, generator=torch.Generator().manual_seed(4))
    gate[4] = 0.0
    gate[8, 1] = 0.0
    Case(SHORT, 3, 32, dtype, bias=bias, dropout=dropout, gate=gate).check()


@interpreted
def test_all_heads_but_one_closed() -> None:
    gate = torch.zeros(3, 4)
    gate[:, 2] = 1.0
    case = Case([17, 0, 30], 4, 16, gate=gate)
    case.check()
    got, _ = case.run()
    assert not got[0][:, [0, 1, 3]].any() and got[4][:, [0, 1, 3]].any()


@interpreted
def test_lse_is_that_of_the_reference() -> None:
    case = Case([3, 0, 40, 30], 2, 32, bias=True, dropout=0.3)
    assert case.bias is not None
    inputs = [x.double() for x in case.inputs]
    _, expected = reference.attention_forward(
        AttentionInputs(*inputs, case.cu_lengths, case.bias.double(), None, case.scale, case.dropout, SEED)
    )
    assert relative_error(case.run()[1], expected) < 1e-6


@interpreted
def test_views_are_taken_as_they_are() -> None:
    case = Case(SHORT, 2, 32)
    expected, _ = case.run()
    query, key, value = case.inputs
    by_head = torch.stack(case.inputs, dim=2)
    case.inputs = by_head.unbind(2)
    by_feature = case.upstream.transpose(1, 2).contiguous().transpose(1, 2)
    case.upstream = by_feature
    assert by_feature.stride(2) != 1 and case.inputs[0].stride(1) == 96
    assert all(torch.equal(x, y) for x, y in zip(case.run()[0], expected, strict=True))
    wide = torch.cat([query.flatten(1), torch.full((len(query), 5), math.nan)], dim=1)
    case.inputs = (wide[:, :64].unflatten(1, (2, 32)), key.contiguous(), value.contiguous())
    case.upstream = torch.ones(()).expand(query.shape)
    for x, y in zip(case.run()[0], Case(SHORT, 2, 32).exact[:1], strict=False):
        assert relative_error(x, y) < 1e-5


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_stay_in_their_sentence(dtype: torch.dtype, bad: float) -> None:
    """All three sentences are of one tile."""
    for which in range(4):
        case = Case([5, 9, 7], 1, 16, dtype)
        clean, _ = case.run()
        (case.upstream if which == 3 else case.inputs[which])[13, 0, 3] = bad
        got, lse = case.run()
        outside = torch.ones(21, dtype=torch.bool)
        outside[5:14] = False
        for x, y in zip(got, clean, strict=True):
            torch.testing.assert_close(x[outside], y[outside])
        assert lse[outside].isfinite().all()
        if math.isnan(bad):
            touched = (got[0][13], got[0][5:14], got[0][5:14, :, 3], got[1][13])[which]
            assert touched.isnan().all()


@interpreted
def test_every_probability_is_dropped_as_in_the_reference() -> None:
    lengths = [48, 5, 33]
    fused, cu_lengths = packed(lengths, 2, 64)
    query, key = (0.1 * x.float() for x in fused.unbind(1)[:2])
    # Values that show the probabilities: those of the j-th token are 1 in coordinate j.
    value = torch.cat([torch.eye(n, 64) for n in lengths])[:, None].repeat(1, 2, 1)
    for seed in (0, 1, -3, 2**62 + 5, 2**33):
        inputs = AttentionInputs(query, key, value, cu_lengths, None, None, 0.1, 0.25, seed)
        out, _ = triton_attention.attention_forward(inputs)
        start = 0
        for sentence, length in enumerate(lengths):
            position = torch.arange(length)
            stays = reference.dropout_mask(
                seed, torch.tensor(sentence), torch.arange(2)[:, None], position[:, None, None], position, 0.25
            )
            assert torch.equal(out[start : start + length, :, :length] != 0, stays)
            start += length


@interpreted
def test_nothing_in_nothing_out() -> None:
    for tokens, heads in ((0, 2), (3, 0), (0, 0)):
        x, bias = torch.ones(tokens, heads, 16), torch.ones(heads, 5)
        for cu_lengths in (torch.tensor([0, tokens]), torch.tensor([0, 0, tokens, tokens])):
            gate = torch.ones(len(cu_lengths) - 1, heads)
            inputs = AttentionInputs(x, x, x, cu_lengths, bias, gate, 0.5, 0.1, 1)
            out, lse = triton_attention.attention_forward(inputs)
            grads = triton_attention.attention_backward(inputs, out, lse, x)
            assert out.shape == x.shape and lse.shape == (tokens, heads)
            assert [g.shape for g in grads] == [x.shape] * 3 + [bias.shape, gate.shape]
            assert not grads[3].any() and not grads[4].any()
    nothing = torch.ones(0, 2, 16)
    inputs = AttentionInputs(nothing, nothing, nothing, torch.tensor([0]), None, None, 1.0, 0.0, 0)
    assert triton_attention.attention_forward(inputs)


@interpreted
def test_the_operator_takes_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSECSE_KERNELS", "triton")
    case = Case([5, 0, 17], 2, 32, dropout=0.1)
    inputs = [x.clone().requires_grad_() for x in case.inputs]
    out = attention(*inputs, case.cu_lengths, dropout=0.1, seed=SEED)
    got = [out.detach(), *torch.autograd.grad(out, inputs, case.upstream)]
    assert all(torch.equal(x, y) for x, y in zip(got, case.run()[0], strict=True))
    wide = Case([5, 0, 17], 1, triton_attention.MAX_HEAD_SIZE + 16)
    wide.check()


@interpreted
def test_the_operator_takes_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSECSE_KERNELS", "triton")
    for head_size in (32, triton_attention.MAX_HEAD_SIZE + 16):
        gate = torch.tensor([[0.5, 0.0], [1.0, 1.0], [0.0, 2.0]])
        case = Case([5, 0, 17], 2, head_size, gate=gate)
        inputs = [x.clone().requires_grad_() for x in (*case.inputs, gate)]
        out = attention(*inputs[:3], case.cu_lengths, gate=inputs[3], seed=SEED)
        got = [out.detach(), *torch.autograd.grad(out, inputs, case.upstream)]
        for x, y in zip(got, case.exact, strict=True):
            assert relative_error(x, y) < 1e-5


def test_odd_strides_are_copied_away() -> None:
    """The compiled kernels below expect multiples of 16: three heads of 24 and slices are none."""
    for head_size, heads in ((24, 3), (32, 3), (40, 1)):
        wide = torch.randn(5, heads * head_size + 3, generator=torch.Generator().manual_seed(0))
        views = [wide[:, :-3].unflatten(1, (heads, head_size)), wide[:, 3:].unflatten(1, (heads, head_size))]
        for x in (*views, views[0].contiguous(), views[0].transpose(1, 2).contiguous().transpose(1, 2)):
            aligned = triton_attention._aligned(x, 64)
            assert torch.equal(aligned, x) and aligned.stride(2) == 1
            assert aligned.stride(0) % 16 == aligned.stride(1) % 16 == aligned.data_ptr() % 16 == 0
    fused = torch.zeros(5, 3, 3, 64, dtype=torch.bfloat16)
    assert all(triton_attention._aligned(x, 64) is x for x in fused.unbind(1))


KERNELS = {
    "forward": (triton_attention.forward_kernel, triton_attention.FORWARD),
    "query gradient": (triton_attention.query_gradient_kernel, triton_attention.QUERY_GRADIENT),
    "key gradient": (triton_attention.key_gradient_kernel, triton_attention.KEY_GRADIENT),
    "bias gradient": (triton_attention.bias_gradient_kernel, triton_attention.BIAS_GRADIENT),
}
DATA = {"q", "k", "v", "upstream", "out", "grad_q", "grad_k", "grad_v"}
INTEGERS = {"sentence", "begin", "end"}
FLOATS = {"bias", "gate", "lse", "inner", "gate_rows", "partial"}


def launches() -> list[tuple[str, triton_attention.Shape, int, bool]]:
    """Every kernel with every shape class, a head size, and whether there are bias, gates and dropout.

    Padded heads with all of these, and in half precision whole heads with none.
    """
    variants = []
    for name, (_, table) in KERNELS.items():
        for shape in sorted({shape for _, shape in table}):
            variants.append((name, shape, shape[1] - 8, True))
            if shape[0] == "half":
                variants.append((name, shape, shape[1], False))
    return variants


# Three seconds each.
@pytest.mark.slow
@compiled
@pytest.mark.parametrize("arithmetic", ["half", "tf32", "ieee"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile_for_gpus_without_spills(arch: int, arithmetic: str) -> None:
    for name, shape, head_size, extras in launches():
        if shape[0] != arithmetic:
            continue
        kernel, table = KERNELS[name]
        _, padded = shape
        config = choose_config(table, arch, shape)
        constants = {
            "HEAD_SIZE": head_size,
            "D": padded,
            "HAS_BIAS": extras,
            "HAS_GATE": extras,
            "DROPOUT": extras,
            "PRECISION": "tf32" if arithmetic == "tf32" else "ieee",
            **config.tiles,
        }
        if not extras:
            constants |= {"gate": None, "gate_rows": None}
            if name != "bias gradient":
                constants["bias"] = None
        constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
        types = {
            **dict.fromkeys(DATA, "*bf16" if arithmetic == "half" else "*fp32"),
            **dict.fromkeys(INTEGERS, "*i32"),
            **dict.fromkeys(FLOATS, "*fp32"),
            **dict.fromkeys(("scale", "keep_scale"), "fp32"),
        }
        result = compile_kernel(
            kernel,
            arch,
            {key: types.get(key, "i32") for key in kernel.arg_names if key not in constants},
            constants,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            maxnreg=config.maxnreg,
            # Whatever the number of heads: see the test of odd strides.
            aligned=tuple(key for key in kernel.arg_names if "stride" in key),
        )
        print(
            f"{name}: sm_{arch} {shape} {head_size} {extras} {result.registers} registers, {result.shared} bytes shared"
        )
        result.check(arch)
        if arithmetic != "ieee":
            assert "wgmma" in result.ptx or "mma.sync" in result.ptx, f"{name} does not use the matrix units"


@compiled
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_gate_reduction_compiles(arch: int) -> None:
    types = {"gate_rows": "*fp32", "cu_lengths": "*i64", "grad_gate": "*fp32", "tokens": "i32", "heads": "i32"}
    constants = {"N": triton_attention.GATE_TILE}
    kernel = triton_attention.gate_gradient_kernel
    compile_kernel(kernel, arch, types, constants, num_warps=4, num_stages=3).check(arch)


def test_every_configuration_can_be_chosen() -> None:
    for name, (_, table) in KERNELS.items():
        assert {shape for _, shape in table} == set(product(("half", "tf32", "ieee"), (32, 64, 128)))
        assert all(arch in ARCHITECTURES for arch, _ in table)
        for config in table.values():
            assert name != "bias gradient" or config["M"] == config["N"]
