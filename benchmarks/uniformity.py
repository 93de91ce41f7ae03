"""Uniformity with its gradient: our kernel against torch.pdist, a blocked matmul loop and others, as a table and JSON.

    python benchmarks/uniformity.py [--n 3000 10000] [--d 384] [--threads T] [--repeats R] [--json FILE] [--check]

The blocked loops compute all N x N blocks, so each pair twice: one leaves the gradient to autograd, as people do, and
the other has it by hand, the fastest that matmul and exp can be put together (the floor is for the first). Our PyTorch
reference takes each pair once. KeOps joins where it is installed (`pip install pykeops`, and a C++ compiler).

Every round times each contender once, in turn, and the best of all rounds counts. Flops are 3 N^2 d, each pair of
vectors once. The GEMM peak is a prepacked oneDNN linear of the same N and d, timed in the same rounds.
"""

import argparse
import datetime
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import verdict, write_rows
from timing import best_times, prepacked_linear
from torch import Tensor

from sparsecse.benchmarking import machine
from sparsecse.kernels import dispatch, native, reference

# What `--check` holds the kernel to, at N = 10,000 and d = 384 (or the largest N asked for).
FLOORS = {"float32 share of GEMM peak": 0.60, "float32 against pdist": 10.0, "float32 against the blocked loop": 2.0}
BF16_FLOOR = {"amx": 4.0, "avx512bf16": 1.6}


def pdist_value_and_grad(x: Tensor, t: float = 2.0) -> tuple[Tensor, Tensor]:
    """What most code does (Wang & Isola's own): autograd through torch.pdist, with all N^2 / 2 distances in memory."""
    x = x.detach().requires_grad_()
    value = torch.pdist(x).pow(2).mul(-t).exp().mean().log()
    return value.detach(), torch.autograd.grad(value, x)[0]


def blocked_value_and_grad(x: Tensor, t: float = 2.0, block: int = 1024) -> tuple[Tensor, Tensor]:
    """What people write where N^2 numbers do not fit: matmul, exp and matmul for every block, unit vectors only."""
    n, total, grad = len(x), 0.0, torch.empty_like(x)
    for i in range(0, n, block):
        rows = x[i : i + block]
        sums, pulled = torch.zeros(len(rows)), torch.zeros_like(rows)
        for j in range(0, n, block):
            columns = x[j : j + block]
            weights = torch.exp(2 * t * (rows @ columns.T - 1))
            sums += weights.sum(dim=1)
            pulled += weights @ columns
        total += float(sums.double().sum())
        grad[i : i + block] = sums[:, None] * rows - pulled
    total -= n  # every vector with itself
    return torch.tensor(total / (n * (n - 1))).log(), grad * (-4 * t / total)


def autograd_value_and_grad(x: Tensor, t: float = 2.0, block: int = 1024) -> tuple[Tensor, Tensor]:
    """The same without a gradient by hand: a block of rows against all, and autograd through each; for any norm."""
    x = x.detach().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(0, len(x), block):
        rows = x[i : i + block]
        squared = rows.square().sum(1)[:, None] + x.square().sum(1)[None, :] - 2 * rows @ x.T
        part = torch.exp(-t * squared).sum()
        part.backward()
        total += part.detach().double()
    total -= len(x)
    assert x.grad is not None
    return (total / (len(x) * (len(x) - 1))).log().float(), x.grad / total.float()


def keops_value_and_grad(x: Tensor, t: float = 2.0) -> tuple[Tensor, Tensor]:
    """Autograd through KeOps' symbolic N x N matrix."""
    from pykeops.torch import LazyTensor

    x = x.detach().requires_grad_()
    squared = ((LazyTensor(x[:, None, :]) - LazyTensor(x[None, :, :])) ** 2).sum(-1)
    total = (-t * squared).exp().sum(dim=1).sum() - len(x)
    value = (total / (len(x) * (len(x) - 1))).log()
    return value.detach(), torch.autograd.grad(value, x)[0]


def gemm(n: int, d: int, dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """A prepacked oneDNN linear [rows, d] x [d, columns] of the blocks such a computation has, and its flops."""
    rows, columns = min(n, 2048), min(n, 2048)
    return prepacked_linear(rows, columns, d, dtype), 2.0 * rows * columns * d


def measure(n: int, d: int, repeats: int) -> list[dict[str, Any]]:
    x = torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(0)), dim=1)
    half = x.bfloat16()
    calls: dict[str, Callable[[], object]] = {}
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):
        calls[f"gemm {dtype}"], peaks[dtype] = gemm(n, d, dtype)
    contenders = {
        "sparsecse float32": (native.uniformity_value_and_grad, x),
        "sparsecse bfloat16": (native.uniformity_value_and_grad, half),
        "our PyTorch reference (each pair once) float32": (reference.uniformity_value_and_grad, x),
        "blocked loop, autograd float32": (autograd_value_and_grad, x),
        "blocked loop, gradient by hand float32": (blocked_value_and_grad, x),
        "torch.pdist float32": (pdist_value_and_grad, x),
    }
    if importlib.util.find_spec("pykeops") is not None:
        contenders["KeOps float32"] = (keops_value_and_grad, x)
    for name, (function, argument) in contenders.items():
        value, grad = function(argument)
        if name.endswith("float32"):  # all compute the same
            expected, expected_grad = reference.uniformity_value_and_grad(x)
            torch.testing.assert_close(value, expected, atol=1e-4, rtol=0)
            torch.testing.assert_close(grad, expected_grad, atol=1e-3 * float(expected_grad.abs().max()), rtol=0)
        calls[name] = partial(function, argument)
    seconds = best_times(calls, repeats, spell=0.2)
    rows: list[dict[str, Any]] = []
    for name, (_, argument) in contenders.items():
        gflops = 3.0 * n * n * d / seconds[name] / 1e9
        peak = peaks[argument.dtype] / seconds[f"gemm {argument.dtype}"] / 1e9
        rows.append(
            {
                "n": n,
                "d": d,
                "contender": name,
                "seconds": seconds[name],
                "times_ours_float32": seconds[name] / seconds["sparsecse float32"],
                "gflops": gflops,
                "gemm_peak_gflops": peak,
                "share_of_peak": gflops / peak,
            }
        )
    return rows


def failures(rows: list[dict[str, Any]], level: str) -> list[str]:
    """The floors missed by the rows of one N."""
    seconds = {row["contender"]: row["seconds"] for row in rows}
    ours = seconds["sparsecse float32"]
    share = next(row["share_of_peak"] for row in rows if row["contender"] == "sparsecse float32")
    reached = {
        "float32 share of GEMM peak": share,
        "float32 against pdist": seconds["torch.pdist float32"] / ours,
        "float32 against the blocked loop": seconds["blocked loop, autograd float32"] / ours,
        "bfloat16 against float32": ours / seconds["sparsecse bfloat16"],
    }
    floors = {**FLOORS, **({"bfloat16 against float32": BF16_FLOOR[level]} if level in BF16_FLOOR else {})}
    return [f"{what}: {reached[what]:.2f}, floor {floor}" for what, floor in floors.items() if reached[what] < floor]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[3000, 10000], help="numbers of vectors")
    parser.add_argument("--d", type=int, default=384, help="their dimension")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the best time counts")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed at the largest N")
    options = parser.parse_args()

    extension = dispatch.native_extension()
    if extension is None:
        print("benchmarks/uniformity.py needs the compiled extension; reinstall sparsecse with a C++17 compiler.")
        return 2
    torch.set_num_threads(options.threads)
    level = extension.cpu_level_names()[dispatch.cpu_level()]
    about = {
        "cpu": machine()["cpu"],
        "level": level,
        "threads": options.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "load_before": os.getloadavg()[0],
    }
    print("  ".join(f"{key}: {value}" for key, value in about.items()))
    print(f"{'N':>7} {'contender':<48}{'ms':>10}{'x ours':>9}{'GFLOP/s':>10}{'GEMM peak':>11}{'share':>8}")
    rows: list[dict[str, Any]] = []
    missed: list[str] = []
    for n in sorted(options.n):
        group = measure(n, options.d, options.repeats)
        for row in group:
            print(
                f"{n:>7} {row['contender']:<48}{row['seconds'] * 1e3:>10.1f}{row['times_ours_float32']:>9.2f}"
                f"{row['gflops']:>10.0f}{row['gemm_peak_gflops']:>11.0f}{row['share_of_peak']:>8.0%}"
            )
        rows += group
        missed = failures(group, level)
    write_rows(options.json, about, rows)
    return verdict(missed if options.check else [])


if __name__ == "__main__":
    sys.exit(main())
