"""The Triton kernels: interpreted against float64, and compiled ahead of time for GPUs that are not here.

Triton decides when a kernel is defined whether it will be interpreted, so this module runs itself, and those of other
interpreted tests, once more in a process with TRITON_INTERPRET=1. `test_gpu.py` has the same checks on a device.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_kernels import exact_uniformity, plain_uniformity, relative_error, vectors
from torch import Tensor
from triton_aot import compile_kernel

pytest.importorskip("triton")

from sparsecse.errors import InputError
from sparsecse.kernels import row_logsumexp, triton_pairs, uniformity, uniformity_value_and_grad
from sparsecse.kernels import triton_row_logsumexp as row_module
from sparsecse.kernels import triton_uniformity as uniformity_module
from sparsecse.kernels.dispatch import TRITON_FROM_PAIRS
from sparsecse.kernels.triton_support import ARCHITECTURES, LaunchConfig, choose_config, interpreting

PRECISIONS = ("bf16", "tf32", "ieee")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Of gradients. Weights are rounded to what the matrix unit takes: 8 bits for bfloat16, 11 for float16. The interpreter
# cuts them off where hardware rounds.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}
# One block of pairs and several (the scratch holds 8 N d bytes), full tiles and not.
SHAPES = [(2, 1), (2, 100), (3, 384), (17, 100), (17, 768), (130, 33), (256, 128), (300, 100), (140, 384)]
ROW_SHAPES = [(1, 1, 1), (1, 17, 768), (17, 1, 100), (3, 140, 384), (65, 300, 33), (260, 129, 128)]


def with_types(shapes: list[tuple[int, ...]]) -> list[tuple[Any, ...]]:
    """Every shape in every element type; interpreted, which takes long, each in one, in turn."""
    if interpreting():
        return [(*shape, DTYPES[index % len(DTYPES)]) for index, shape in enumerate(shapes)]
    return [(*shape, dtype) for shape in shapes for dtype in DTYPES]


class Correctness:
    """What holds on every device; subclasses say where to run. Everything goes through the public operators."""

    device = "cpu"
    # Absolute, of values of uniformity about -3.
    value_tolerance = 5e-6

    @pytest.fixture(autouse=True)
    def forced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SPARSECSE_KERNELS", "triton")

    def vectors(self, n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        return vectors(n, d, seed, dtype).to(self.device)

    @pytest.mark.parametrize("n,d,dtype", with_types(SHAPES))
    def test_uniformity(self, n: int, d: int, dtype: torch.dtype) -> None:
        x = self.vectors(n, d, dtype=dtype)
        value, grad = uniformity_value_and_grad(x)
        expected, expected_grad = exact_uniformity(x.cpu())
        assert value.dtype == grad.dtype == torch.float32 and grad.shape == x.shape and grad.device == x.device
        assert float(value) == pytest.approx(float(expected), abs=self.value_tolerance)
        assert relative_error(grad.cpu(), expected_grad) < TOLERANCE[dtype]
        assert float(uniformity(x)) == pytest.approx(float(expected), abs=self.value_tolerance)

    @pytest.mark.parametrize("n,m,d,dtype", with_types(ROW_SHAPES))
    def test_row_logsumexp(self, n: int, m: int, d: int, dtype: torch.dtype) -> None:
        a = self.vectors(n, d, dtype=dtype).requires_grad_()
        b = self.vectors(m, d, seed=1, dtype=dtype).requires_grad_()
        upstream = torch.randn(n, generator=torch.Generator().manual_seed(2)).to(self.device)
        lse = row_logsumexp(a, b, 20.0)
        lse.backward(upstream)
        exact_a, exact_b = (x.detach().double().requires_grad_() for x in (a, b))
        exact = torch.logsumexp(20.0 * exact_a @ exact_b.T, dim=1)
        exact.backward(upstream.double())
        torch.testing.assert_close(lse.detach().double(), exact.detach(), rtol=1e-5, atol=1e-5)
        for x, expected in ((a, exact_a), (b, exact_b)):
            assert x.grad is not None and x.grad.dtype == dtype and expected.grad is not None
            assert relative_error(x.grad, expected.grad) < TOLERANCE[dtype]

    def test_a_hard_negative_can_weigh_more_than_one(self) -> None:
        a, b, h = (self.vectors(30, 24, seed=seed) for seed in range(3))
        lse = row_logsumexp(a, torch.cat([b, h]), 20.0)
        lse = torch.logaddexp(lse, 20.0 * (a * h).sum(dim=1) + math.log(3.0 - 1.0))
        a, b, h = a.double(), b.double(), h.double()
        logits = torch.cat([20.0 * a @ b.T, 20.0 * a @ h.T + math.log(3.0) * torch.eye(30, device=a.device)], dim=1)
        torch.testing.assert_close(lse.double(), logits.logsumexp(dim=1), rtol=1e-5, atol=1e-5)

    def test_columns_are_shared_out_and_put_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = self.vectors(200, 40), self.vectors(700, 40, seed=1)
        exact = torch.logsumexp(9.0 * a.double() @ b.double().T, dim=1)
        for programs in (1, 5, 1000):
            monkeypatch.setattr(row_module, "PROGRAMS", programs)
            torch.testing.assert_close(row_logsumexp(a, b, 9.0).double(), exact, rtol=1e-6, atol=1e-6)

    def test_large_logits_do_not_overflow(self) -> None:
        a, b = self.vectors(40, 32), self.vectors(50, 32, seed=1)
        for scale in (5000.0, -5000.0):
            exact = torch.logsumexp(scale * a.double() @ b.double().T, dim=1)
            torch.testing.assert_close(row_logsumexp(a, b, scale).double(), exact, rtol=1e-5, atol=1e-2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_far_apart_vectors(self, dtype: torch.dtype) -> None:
        x = self.vectors(150, 64, dtype=dtype) * 30
        value, grad = uniformity_value_and_grad(x)
        expected, expected_grad = exact_uniformity(x.cpu())
        assert float(value) == pytest.approx(float(expected), rel=1e-5)
        assert relative_error(grad.cpu(), expected_grad) < 5e-3
        assert float(uniformity(x)) == pytest.approx(float(expected), rel=1e-5)

    def test_other_temperatures(self) -> None:
        x = self.vectors(130, 48)
        for t in (0.5, 11.0):
            value, grad = uniformity_value_and_grad(x, t)
            expected, expected_grad = exact_uniformity(x.cpu(), t)
            assert float(value) == pytest.approx(float(expected), abs=2e-5)
            assert relative_error(grad.cpu(), expected_grad) < 1e-4

    def test_shifted_vectors_keep_their_distances(self) -> None:
        x = self.vectors(100, 30) + 50.0
        assert float(uniformity(x)) == pytest.approx(float(exact_uniformity(x.cpu())[0]), abs=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_duplicates_and_denormals(self, dtype: torch.dtype) -> None:
        same = self.vectors(1, 100, dtype=dtype).expand(65, 100)
        value, grad = uniformity_value_and_grad(same)
        assert float(value) == pytest.approx(0.0, abs=1e-6) and float(grad.abs().max()) < 1e-6
        value, grad = uniformity_value_and_grad(self.vectors(40, 16, dtype=dtype) * 1e-39)
        assert float(value) == pytest.approx(0.0, abs=1e-6)
        assert grad.isfinite().all() and float(grad.abs().max()) < 1e-30

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_nan_and_infinity_in_give_nan_out(self, dtype: torch.dtype) -> None:
        for bad in (math.nan, math.inf):
            x = self.vectors(70, 40, dtype=dtype)
            x[65, 39] = bad
            value, grad = uniformity_value_and_grad(x)
            assert value.isnan() and grad.isnan().any() and uniformity(x).isnan()
        x = self.vectors(70, 40, dtype=dtype)
        x[3, 2] = math.nan
        y = self.vectors(50, 40, seed=1, dtype=dtype)
        others = torch.arange(70, device=x.device) != 3
        lse = row_logsumexp(x, y, 2.0)
        assert lse[3].isnan() and not lse[others].isnan().any()
        assert row_logsumexp(y, x, 2.0).isnan().all()

    def test_results_repeat_bit_for_bit(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            x = self.vectors(300, 40, dtype=dtype)
            first, second = uniformity_value_and_grad(x), uniformity_value_and_grad(x)
            assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])

    def test_views_that_are_not_contiguous(self) -> None:
        base = self.vectors(64, 200)
        for x in (base.T, base[::2, ::3], base[:, 5:90]):
            value, grad = uniformity_value_and_grad(x)
            expected, expected_grad = exact_uniformity(x.cpu())
            assert float(value) == pytest.approx(float(expected), abs=5e-6)
            assert relative_error(grad.cpu(), expected_grad) < 2e-5
            torch.testing.assert_close(row_logsumexp(x, x, 2.0), torch.logsumexp(2 * x @ x.T, 1), rtol=1e-5, atol=1e-5)

    def test_a_tensor_that_needs_a_gradient_can_be_used_again(self) -> None:
        x = self.vectors(40, 16).requires_grad_()
        (uniformity(x) + row_logsumexp(x, x, 2.0).sum() + x.square().sum()).backward()
        twin = x.detach().cpu().double().requires_grad_()
        (plain_uniformity(twin) + torch.logsumexp(2 * twin @ twin.T, 1).sum() + twin.square().sum()).backward()
        assert x.grad is not None and twin.grad is not None
        assert relative_error(x.grad.cpu(), twin.grad) < 1e-5

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_operators_keep_torchs_rules(self, dtype: torch.dtype) -> None:
        x = self.vectors(9, 6, dtype=dtype).requires_grad_()
        a = self.vectors(4, 6, seed=1, dtype=dtype).requires_grad_()
        torch.library.opcheck(torch.ops.sparsecse.uniformity_value_and_grad.default, (x, 2.0))
        torch.library.opcheck(torch.ops.sparsecse.row_logsumexp.default, (a, x, 4.0))

    def test_tf32_is_taken_where_pytorch_may_take_it(self) -> None:
        x = self.vectors(140, 100)
        expected, expected_grad = exact_uniformity(x.cpu())
        exact = uniformity_value_and_grad(x)[1]
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        try:
            value, grad = uniformity_value_and_grad(x)
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
        assert float(value) == pytest.approx(float(expected), abs=2e-5)
        assert relative_error(grad.cpu(), expected_grad) < 1e-3
        assert relative_error(exact.cpu(), expected_grad) < 1e-5 and not torch.equal(grad, exact)


class TestInterpreted(Correctness):
    """On CPU tensors, in the process that the test below starts."""

    __test__ = interpreting()


@pytest.mark.skipif(interpreting(), reason="this is the process that it starts")
def test_kernels_in_the_interpreter() -> None:
    modules = [str(Path(__file__).with_name(name)) for name in ("test_triton.py", "test_triton_attention.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *modules]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "PYTHONSAFEPATH": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout[-20000:] + result.stderr[-2000:]


Launch = tuple[str, Any, LaunchConfig, dict[str, str], dict[str, Any], tuple[str, ...]]


def launches(arch: int, precision: str) -> Iterator[Launch]:
    """Every kernel as it is launched: name, kernel, configuration, types, constants, integers divisible by 16."""
    element = "*bf16" if precision == "bf16" else "*fp32"
    products = {"PRECISION": triton_pairs.dot_precision(precision)}
    weights = {**products, "PRODUCT": precision}

    def types(elements: str, floats: str, integers: str, numbers: str = "") -> dict[str, str]:
        kinds = ((element, elements), ("*fp32", floats), ("i32", integers), ("fp32", numbers))
        return {name: kind for kind, names in kinds for name in names.split()}

    pairs = choose_config(uniformity_module.PAIR_CONFIGS, arch, precision)
    nearest = types("x", "norms lowest largest", "count d", "rate")
    yield "nearest", uniformity_module.nearest_kernel, pairs, nearest, {**products, "SAFE": -60.0}, ("d",)
    value = types("x", "norms shift totals", "first_row first_column count tiles stride d", "rate")
    aligned = ("first_row", "first_column", "stride", "d")
    absent = {"scratch": None, "row_sums": None, "column_sums": None}
    yield "value", uniformity_module.weights_kernel, pairs, value, weights | absent, aligned
    stored = value | types("scratch", "row_sums column_sums", "")
    yield "weights", uniformity_module.weights_kernel, pairs, stored, weights, aligned

    rows = choose_config(row_module.ROW_CONFIGS, arch, precision)
    forward = types("a b", "parts", "row_count column_count columns_each d", "scale")
    yield "row_logsumexp", row_module.row_logsumexp_kernel, rows, forward, products, ("d",)
    integers = "first_row first_column row_count column_count stride d"
    backward = types("a b scratch", "lse upstream", integers, "scale")
    constants = weights | {"LOG2E": row_module.LOG2E}
    yield "row_weights", row_module.row_weights_kernel, rows, backward, constants, ("stride", "d")

    sums = choose_config(triton_pairs.ACCUMULATE_CONFIGS, arch, precision)
    integers = "row_count column_count row_extent column_extent row_slots column_slots stride d width"
    aligned = ("row_extent", "column_extent", "stride", "d", "width")
    without = types("scratch x_rows x_columns", "out_rows out_columns", integers)
    absent = {"row_sums": None, "column_sums": None}
    yield "accumulate", triton_pairs.accumulate_kernel, sums, without, products | absent, aligned
    with_sums = without | types("", "row_sums column_sums", "")
    yield "accumulate with sums", triton_pairs.accumulate_kernel, sums, with_sums, products, aligned


# About a second each.
@pytest.mark.slow
@pytest.mark.skipif(interpreting(), reason="an interpreted kernel cannot be compiled")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile_for_gpus_without_spills(arch: int, precision: str) -> None:
    for name, kernel, config, types, constants, aligned in launches(arch, precision):
        compiled = compile_kernel(
            kernel,
            arch,
            types,
            {**constants, **config.tiles},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            maxnreg=config.maxnreg,
            aligned=aligned,
        )
        print(f"{name}: sm_{arch} {precision} {compiled.registers} registers, {compiled.shared} bytes shared")
        compiled.check(arch)
        if precision != "ieee":
            assert ("wgmma" if arch == 90 else "mma.sync") in compiled.ptx, f"{name} does not use the matrix units"


def test_every_configuration_can_be_chosen() -> None:
    tables = (uniformity_module.PAIR_CONFIGS, row_module.ROW_CONFIGS, triton_pairs.ACCUMULATE_CONFIGS)
    for table in tables:
        assert table.keys() == {(arch, precision) for arch in ARCHITECTURES for precision in PRECISIONS}
        assert choose_config(table, 89, "bf16") is table[80, "bf16"]
        assert choose_config(table, 100, "tf32") is table[90, "tf32"]
        for config in table.values():
            assert all(triton_pairs.PADDING % tile == 0 for tile in config.tiles.values())
    assert TRITON_FROM_PAIRS.keys() == set(PRECISIONS)


@pytest.mark.skipif(interpreting(), reason="it may run on the CPU then")
def test_triton_cannot_be_forced_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSECSE_KERNELS", "triton")
    with pytest.raises(InputError, match="TRITON_INTERPRET=1"):
        uniformity(vectors(3, 4))
    with pytest.raises(InputError, match="float64"):
        row_logsumexp(vectors(3, 4).double(), vectors(3, 4).double())


def test_scratch_stays_within_its_bounds() -> None:
    for n, d in ((2, 3), (300, 384), (3000, 384), (65536, 768), (10**6, 100)):
        operand = triton_pairs.Operand(torch.empty(triton_pairs.round_up(n), 0, device="meta"), n, d, "ieee")
        side = triton_pairs.block_side((operand,))
        assert side % triton_pairs.PADDING == 0 and side > 0
        assert 4 * side**2 <= max(4 * triton_pairs.PADDING**2, min(8 * n * d, triton_pairs.SCRATCH_BYTES))


def test_importing_the_kernels_does_not_import_triton() -> None:
    # PyTorch imports Triton itself when an operator is first called, so only the import can be looked at.
    program = "import sys, sparsecse.kernels; sys.exit('triton' in sys.modules)"
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
