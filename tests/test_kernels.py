"""Every kernel against a float64 computation, at every instruction set this machine has."""

import math
import sys
import warnings

import pytest
import torch
from torch import Tensor

from sparsecse.errors import InputError
from sparsecse.kernels import row_logsumexp, uniformity, uniformity_value_and_grad
from sparsecse.kernels.dispatch import native_extension

HALF = [torch.bfloat16, torch.float16]
# Odd shapes: one block and several, widths that fill panels of 32 and that do not.
SHAPES = [(n, d) for n in (2, 3, 17, 300) for d in (1, 7, 100, 384, 768)] + [(700, 33), (2000, 24)]


def vectors(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random directions of norms near one: general enough that nothing relies on unit length."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
    return (x * (0.5 + torch.rand(n, 1, generator=generator))).to(dtype)


def plain_uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """The definition, with the N x N matrix."""
    different = ~torch.eye(len(x), dtype=torch.bool)
    squared = (x[:, None] - x[None]).square().sum(2)[different]
    return torch.logsumexp(-t * squared, dim=0) - math.log(len(squared))


def exact_uniformity(x: Tensor, t: float = 2.0) -> tuple[Tensor, Tensor]:
    """Value and gradient in float64, on the values x really holds, from differences and not from dot products."""
    x = x.detach().double()
    exponents = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() * -t
    exponents.fill_diagonal_(-math.inf)
    total = torch.logsumexp(exponents.flatten(), dim=0)
    shares = (exponents - total).exp()
    gradient = -4.0 * t * (shares.sum(dim=1, keepdim=True) * x - shares @ x)
    return total - math.log(len(x) * (len(x) - 1)), gradient


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30))


def gradient_tolerance(dtype: torch.dtype) -> float:
    # bf16 kernels round the weights to bf16, which has 8 bits: 2^-9 each at worst, less over many.
    return 4e-3 if dtype == torch.bfloat16 else 2e-5


@pytest.mark.parametrize("n,d", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_uniformity_is_exact_over_odd_shapes(backend: str, n: int, d: int, dtype: torch.dtype) -> None:
    x = vectors(n, d, dtype=dtype)
    value, grad = uniformity_value_and_grad(x)
    expected, expected_grad = exact_uniformity(x)
    assert value.dtype == grad.dtype == torch.float32 and grad.shape == x.shape
    assert float(value) == pytest.approx(float(expected), abs=5e-6)
    assert relative_error(grad, expected_grad) < gradient_tolerance(dtype)
    assert float(uniformity(x)) == pytest.approx(float(expected), abs=5e-6)


@pytest.mark.parametrize("t", [0.5, 2.0, 11.0])
def test_uniformity_for_other_temperatures(backend: str, t: float) -> None:
    x = vectors(130, 48)
    value, grad = uniformity_value_and_grad(x, t)
    expected, expected_grad = exact_uniformity(x, t)
    assert float(value) == pytest.approx(float(expected), abs=2e-5)
    assert relative_error(grad, expected_grad) < 1e-4


def test_uniformity_in_float64_is_the_definition() -> None:
    x = vectors(50, 20, dtype=torch.float64)
    value, grad = uniformity_value_and_grad(x)
    twin = x.clone().requires_grad_()
    expected = plain_uniformity(twin)
    (expected_grad,) = torch.autograd.grad(expected, twin)
    assert value.dtype == grad.dtype == torch.float64
    torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-13)


def test_gradcheck() -> None:
    x = vectors(7, 5, dtype=torch.float64).requires_grad_()
    a = vectors(4, 5, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(uniformity, (x,))
    assert torch.autograd.gradcheck(lambda x: torch.ops.sparsecse.uniformity(x, 2.0), (x,))
    assert torch.autograd.gradcheck(lambda a, b: row_logsumexp(a, b, 3.0), (a, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_operators_keep_torchs_rules(dtype: torch.dtype) -> None:
    x = vectors(9, 6, dtype=dtype).requires_grad_()
    a = vectors(4, 6, seed=1, dtype=dtype).requires_grad_()
    torch.library.opcheck(torch.ops.sparsecse.uniformity.default, (x, 2.0))
    torch.library.opcheck(torch.ops.sparsecse.uniformity_value_and_grad.default, (x, 2.0))
    torch.library.opcheck(torch.ops.sparsecse.row_logsumexp.default, (a, x, 4.0))


def test_backward_scales_by_the_upstream_gradient_and_keeps_the_dtype(backend: str) -> None:
    for dtype in (torch.float32, *HALF):
        x = vectors(40, 16, dtype=dtype).requires_grad_()
        (3 * uniformity(x)).backward()
        assert x.grad is not None and x.grad.dtype == dtype
        assert relative_error(x.grad, 3 * exact_uniformity(x)[1]) < 2 * gradient_tolerance(torch.bfloat16)


def test_a_tensor_that_needs_a_gradient_can_be_used_again(backend: str) -> None:
    x = vectors(40, 16).requires_grad_()
    loss = uniformity(x) + row_logsumexp(x, x, 2.0).sum() + x.square().sum()
    loss.backward()
    assert x.grad is not None
    twin = x.detach().double().requires_grad_()
    (plain_uniformity(twin) + torch.logsumexp(2 * twin @ twin.T, 1).sum() + twin.square().sum()).backward()
    assert twin.grad is not None and relative_error(x.grad, twin.grad) < 1e-5


def test_results_do_not_depend_on_the_number_of_threads(backend: str) -> None:
    if backend == "reference":
        pytest.skip("PyTorch promises no such thing")
    before = torch.get_num_threads()
    results = []
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        for dtype in (torch.float32, torch.bfloat16):
            x = vectors(700, 40, dtype=dtype).requires_grad_()
            lse = row_logsumexp(x, x[:500], 9.0)
            lse.sum().backward()
            results.append((dtype, *uniformity_value_and_grad(x.detach()), lse.detach(), x.grad))
    torch.set_num_threads(before)
    for dtype, *tensors in results:
        first = next(rest for other, *rest in results if other == dtype)
        assert all(torch.equal(a, b) for a, b in zip(tensors, first, strict=True))


def test_order_of_the_vectors_does_not_matter(backend: str) -> None:
    x = vectors(333, 48)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    value, grad = uniformity_value_and_grad(x)
    moved, moved_grad = uniformity_value_and_grad(x[order])
    assert float(value) == pytest.approx(float(moved), abs=2e-6)
    torch.testing.assert_close(grad[order], moved_grad, rtol=1e-4, atol=1e-7)
    # Each pair pulls both ends alike: the forces sum to nothing.
    assert float(grad.sum(dim=0).abs().max()) < 1e-5


def test_shifted_vectors_keep_their_distances(backend: str) -> None:
    x = vectors(100, 30)
    assert float(uniformity(x + 50.0)) == pytest.approx(float(exact_uniformity(x + 50.0)[0]), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_nan_and_infinity_in_give_nan_out(backend: str, dtype: torch.dtype) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("float64 is the reference's")
    for bad in (math.nan, math.inf):
        x = vectors(70, 40, dtype=dtype)
        x[65, 39] = bad
        value, grad = uniformity_value_and_grad(x)
        assert value.isnan() and grad.isnan().any() and uniformity(x).isnan()
    x = vectors(70, 40, dtype=dtype)
    x[3, 2] = math.nan
    y = vectors(50, 40, seed=1, dtype=dtype)
    lse = row_logsumexp(x, y, 2.0)
    assert lse[3].isnan() and not lse.isnan()[torch.arange(70) != 3].any()
    assert row_logsumexp(y, x, 2.0).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_denormals(backend: str, dtype: torch.dtype) -> None:
    x = vectors(40, 16, dtype=dtype) * 1e-39
    value, grad = uniformity_value_and_grad(x)
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert grad.isfinite().all() and float(grad.abs().max()) < 1e-30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_duplicates(backend: str, dtype: torch.dtype) -> None:
    same = vectors(1, 100, dtype=dtype).expand(65, 100)
    value, grad = uniformity_value_and_grad(same)
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert float(grad.abs().max()) < 1e-6
    twice = vectors(50, 100, dtype=dtype).repeat(2, 1)
    value, grad = uniformity_value_and_grad(twice)
    expected, expected_grad = exact_uniformity(twice)
    assert float(value) == pytest.approx(float(expected), abs=5e-6)
    assert relative_error(grad, expected_grad) < 2 * gradient_tolerance(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_far_apart_do_not_underflow_to_minus_infinity(backend: str, dtype: torch.dtype) -> None:
    x = vectors(300, 64, dtype=dtype) * 30
    value, grad = uniformity_value_and_grad(x)
    expected, expected_grad = exact_uniformity(x)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    # A weight's relative error is the absolute one of t ||x||^2, here about 2000 times float32's rounding.
    assert relative_error(grad, expected_grad) < 5e-3
    assert float(uniformity(x)) == pytest.approx(float(expected), rel=1e-5)


def test_views_that_are_not_contiguous(backend: str) -> None:
    base = vectors(64, 200)
    for x in (base.T, base[::2, ::3], base[:, 5:90]):
        value, grad = uniformity_value_and_grad(x)
        expected, expected_grad = exact_uniformity(x)
        assert float(value) == pytest.approx(float(expected), abs=5e-6)
        assert relative_error(grad, expected_grad) < 2e-5
        torch.testing.assert_close(row_logsumexp(x, x, 2.0), torch.logsumexp(2 * x @ x.T, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n,m,d", [(1, 1, 1), (1, 17, 7), (17, 3, 100), (300, 300, 384), (65, 500, 33), (500, 129, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_row_logsumexp_and_its_gradients(backend: str, n: int, m: int, d: int, dtype: torch.dtype) -> None:
    a, b = vectors(n, d, dtype=dtype).requires_grad_(), vectors(m, d, seed=1, dtype=dtype).requires_grad_()
    upstream = torch.randn(n, generator=torch.Generator().manual_seed(2))
    lse = row_logsumexp(a, b, 20.0)
    lse.backward(upstream)
    exact_a, exact_b = a.detach().double().requires_grad_(), b.detach().double().requires_grad_()
    exact = torch.logsumexp(20.0 * exact_a @ exact_b.T, dim=1)
    exact.backward(upstream.double())
    assert lse.dtype == torch.float32 and a.grad is not None and b.grad is not None
    assert exact_a.grad is not None and exact_b.grad is not None
    torch.testing.assert_close(lse.detach().double(), exact.detach(), rtol=1e-5, atol=1e-5)
    # Half-precision gradients are rounded once more on their way out.
    tolerance = 5e-5 if dtype == torch.float32 else 6e-3
    assert relative_error(a.grad, exact_a.grad) < tolerance
    assert relative_error(b.grad, exact_b.grad) < tolerance


def test_row_logsumexp_of_large_logits_does_not_overflow(backend: str) -> None:
    a, b = vectors(40, 32), vectors(50, 32, seed=1)
    exact = torch.logsumexp(5000.0 * a.double() @ b.double().T, dim=1)
    torch.testing.assert_close(row_logsumexp(a, b, 5000.0).double(), exact, rtol=1e-5, atol=1e-2)


def test_wrong_input_is_refused_in_one_sentence() -> None:
    for x in (vectors(1, 4), vectors(3, 4)[0], torch.ones(3, 4, dtype=torch.int64), torch.ones(0, 4)):
        with pytest.raises(InputError, match="uniformity needs"):
            uniformity(x)
    for t in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="t > 0"):
            uniformity(vectors(3, 4), t)
    with pytest.raises(InputError, match="row_logsumexp needs"):
        row_logsumexp(vectors(3, 4), vectors(3, 5))
    with pytest.raises(InputError, match="one dtype"):
        row_logsumexp(vectors(3, 4), vectors(3, 4).double())


def test_switches_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSECSE_KERNELS", "fast")
    with pytest.raises(InputError, match="SPARSECSE_KERNELS"):
        uniformity(vectors(3, 4))
    monkeypatch.setenv("SPARSECSE_KERNELS", "native")
    with pytest.raises(InputError, match="float64"):
        uniformity(vectors(3, 4).double())
    if native_extension():
        monkeypatch.setenv("SPARSECSE_CPU", "avx1024")
        with pytest.raises(InputError, match="SPARSECSE_CPU"):
            uniformity(vectors(3, 4))


def test_it_works_without_the_extension_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sparsecse._native", None)
    monkeypatch.delattr("sparsecse._native", raising=False)
    native_extension.cache_clear()
    try:
        x = vectors(20, 6)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values = [float(uniformity(x)) for _ in range(3)]
        assert len(caught) == 1 and "slower" in str(caught[0].message)
        assert values[0] == pytest.approx(float(exact_uniformity(x)[0]), abs=5e-6)
    finally:
        native_extension.cache_clear()
