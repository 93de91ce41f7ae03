"""The Triton kernels on a CUDA device: first whether they are right, then how fast they are, as a table and JSON.

    python benchmarks/gpu.py [--n 4096 16384 65536] [--d 384 768] [--sentences 4096] [--repeats R] [--json FILE]
        [--only SECTION ...] [--check]

Writes benchmarks/results/gpu-DEVICE-DATE.json where --json names no other file. Exits 2 where there is no CUDA device
or no Triton, and 1 where a result is wrong, or with --check where a target is missed.

Times are medians of calls between CUDA events, contenders in turn; `ratio` is a contender's time over ours. TFLOP/s
count the products that the result needs at least (uniformity 3 N^2 d; InfoNCE's log-sum-exp with gradients 6 N M d;
attention over sentences of n tokens 4 n^2 d forward and 14 n^2 d with gradients; encode as in encode.py), GB/s the
reads and writes that it needs at least; both stand beside ceilings measured in the same run: square matrix products of
8192 and a copy of 1 GiB. `extra` is peak memory beside the input, in units of N d 4 bytes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from gpu_attention import attention_rows, wrong_attention
from gpu_encode import encode_rows, wrong_vectors
from gpu_timing import DEVICE, PRECISIONS, Options, Row, ceilings, tf32, timed
from torch import Tensor
from uniformity import pdist_value_and_grad

from sparsecse.kernels import reference
from sparsecse.kernels.triton_support import triton_installed

RESULTS = Path(__file__).parent / "results"
# All N^2 / 2 distances and what autograd keeps of them: 20 bytes a pair.
PDIST_LIMIT = 30000


def unit_vectors(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn(n, d, generator=generator, device=DEVICE)
    return torch.nn.functional.normalize(x, dim=1).to(dtype)


# ----------------------------------------------------------------------------------------------------- uniformity


def on(x: Tensor, contenders: dict[str, Callable[[Tensor], object]]) -> dict[str, Callable[[], object]]:
    return {name: partial(call, x) for name, call in contenders.items()}


def block_products(rows: Tensor, columns: Tensor, t: float) -> tuple[Tensor, Tensor]:
    weights = torch.exp(2 * t * ((rows @ columns.T).float() - 1))
    return weights.sum(dim=1), (weights.to(columns.dtype) @ columns).float()


def blocked_value_and_grad(
    x: Tensor, products: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]] = block_products
) -> tuple[Tensor, Tensor]:
    """What people write where N^2 numbers do not fit: products in the dtype of x, unit vectors only, pairs twice."""
    n, t, block = len(x), 2.0, 4096
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    grad = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    for i in range(0, n, block):
        rows = x[i : i + block]
        sums = torch.zeros(len(rows), device=x.device)
        pulled = torch.zeros(rows.shape, dtype=torch.float32, device=x.device)
        for j in range(0, n, block):
            add, weighted = products(rows, x[j : j + block], t)
            sums += add
            pulled += weighted
        total += sums.double().sum()
        grad[i : i + block] = sums[:, None] * rows - pulled
    total -= n  # every vector with itself
    return (total / (n * (n - 1))).log().float(), grad.mul_((-4 * t / total).float())


def uniformity_rows(options: Options) -> Iterator[Row]:
    from sparsecse.kernels import gpu

    compiled = torch.compile(block_products)
    for d in options.d:
        for n in options.n:
            for product, dtype, _ in PRECISIONS:
                x = unit_vectors(n, d, dtype)
                contenders: dict[str, Callable[[Tensor], object]] = {
                    "sparsecse": gpu.uniformity_value_and_grad,
                    "blocked matmul": blocked_value_and_grad,
                    "blocked matmul, compiled": partial(blocked_value_and_grad, products=compiled),
                }
                if dtype == torch.float32:
                    contenders["our PyTorch reference"] = reference.uniformity_value_and_grad
                    if n <= PDIST_LIMIT and product == "ieee":
                        contenders["torch.pdist"] = pdist_value_and_grad
                flops, traffic = 3.0 * n * n * d, float(n * d * (x.element_size() + 4))
                calls = on(x, contenders)
                yield from timed("uniformity", f"N={n} d={d}", product, calls, flops, traffic, n * d, options.repeats)


# -------------------------------------------------------------------------------------------------- row_logsumexp


def logsumexp_and_grads(module: ModuleType, a: Tensor, b: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    lse = module.row_logsumexp(a, b, 20.0)
    return lse, module.row_logsumexp_grad(a, b, lse, torch.ones_like(lse), 20.0)


def eager_logsumexp_and_grads(a: Tensor, b: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Autograd through the N x M matrix."""
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    lse = torch.logsumexp(20.0 * (a @ b.T).float(), dim=1)
    return lse, torch.autograd.grad(lse.sum(), (a, b))


def row_logsumexp_rows(options: Options) -> Iterator[Row]:
    """A batch of queries against gathered rows of all devices."""
    from sparsecse.kernels import gpu

    for d in options.d:
        for n in (64, 512, 4096):
            for m in (n, 8 * n):
                for product, dtype, _ in PRECISIONS:
                    a, b = unit_vectors(n, d, dtype), unit_vectors(m, d, dtype, seed=1)
                    contenders: dict[str, Callable[[Tensor], object]] = {
                        "sparsecse": partial(logsumexp_and_grads, gpu, b=b),
                        "eager N x M": partial(eager_logsumexp_and_grads, b=b),
                        "eager N x M, compiled": partial(torch.compile(eager_logsumexp_and_grads), b=b),
                    }
                    if dtype == torch.float32:
                        contenders["our PyTorch reference"] = partial(logsumexp_and_grads, reference, b=b)
                    flops, traffic = 6.0 * n * m * d, float((n + m) * d * (a.element_size() + 4))
                    shape, calls = f"N={n} M={m} d={d}", on(a, contenders)
                    yield from timed("row_logsumexp", shape, product, calls, flops, traffic, n * d, options.repeats)


# ------------------------------------------------------------------------------------------------------ crossover


def crossover_rows(options: Options) -> Iterator[Row]:
    """Small sets: what `dispatch.TRITON_FROM_PAIRS` should say."""
    from sparsecse.kernels import gpu

    for d in options.d:
        for n in (64, 128, 256, 512, 1024, 2048, 4096):
            for product, dtype, _ in PRECISIONS:
                x = unit_vectors(n, d, dtype)
                contenders: dict[str, Callable[[Tensor], object]] = {
                    "sparsecse": gpu.uniformity_value_and_grad,
                    "our PyTorch reference": reference.uniformity_value_and_grad,
                }
                flops, traffic = 3.0 * n * n * d, float(n * d * (x.element_size() + 4))
                calls = on(x, contenders)
                yield from timed("crossover", f"N={n} d={d}", product, calls, flops, traffic, n * d, options.repeats)


# ------------------------------------------------------------------------------------------------------- sections

# Each yields the rows of its table.
SECTIONS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "uniformity": uniformity_rows,
    "row_logsumexp": row_logsumexp_rows,
    "crossover": crossover_rows,
    "attention": attention_rows,
    "encode": encode_rows,
}

# The least ratio to ours that --check asks of contenders whose name begins so, in every row of a section.
TARGETS = [
    ("attention", "SDPA padded", 3.0),
    ("attention", "flash varlen", 1.3),
    ("encode", "padded sorted, compiled", 2.0),
]
UNIFORMITY_SHARE, UNIFORMITY_EXTRA = 0.5, 4.0


def checks(rows: list[Row], limits: dict[str, float]) -> dict[str, bool]:
    """Whether each target is met, by its words; only those of which there are rows in bf16."""
    found = {}
    for section, name, least in TARGETS:
        ratios = [
            row.ratio
            for row in rows
            if row.section == section and row.product == "bf16" and row.contender.startswith(name)
        ]
        if ratios:
            found[f"{section}: {least} times as fast as {name}, is {min(ratios):.2f}"] = min(ratios) >= least
    for row in rows:
        if (row.section, row.shape, row.contender) == ("uniformity", "N=65536 d=768", "sparsecse"):
            if row.product == "bf16":
                share = row.tflops / limits["bf16"]
                words = f"uniformity: {UNIFORMITY_SHARE:.0%} of the bf16 peak, is {share:.0%}"
                found[words] = share >= UNIFORMITY_SHARE
            words = f"uniformity {row.product}: {UNIFORMITY_EXTRA} times N d 4 bytes of memory, is {row.extra:.1f}"
            found[words] = row.extra <= UNIFORMITY_EXTRA
    return found


# ---------------------------------------------------------------------------------------------------- correctness


def wrong_results() -> list[str]:
    """Kernels against float64 on the device: what misses its tolerance, in words."""
    from sparsecse.kernels import gpu

    wrong = []
    # Of gradients.
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}
    for n, d in [(2, 384), (17, 100), (1000, 384), (4095, 768), (4097, 1024), (9001, 100), (12000, 768)]:
        for dtype, limit in tolerance.items():
            for allowed in (False, True) if dtype == torch.float32 else (False,):
                bound = 1e-3 if allowed else limit
                with tf32(allowed):
                    x = unit_vectors(n, d, dtype)
                    value, grad = gpu.uniformity_value_and_grad(x)
                    a, b = unit_vectors(max(n // 3, 1), d, dtype, seed=1), x
                    lse, grads = logsumexp_and_grads(gpu, a, b)
                exact, exact_grad = reference.uniformity_value_and_grad(x.double())
                exact_lse, exact_grads = logsumexp_and_grads(reference, a.double(), b.double())
                pairs = [(grad, exact_grad), (grads[0], exact_grads[0]), (grads[1], exact_grads[1])]
                errors = [float((got - want).norm() / want.norm()) for got, want in pairs]
                values = [float((value - exact).abs()), float((lse - exact_lse).abs().max())]
                # Written so that NaN is wrong.
                if not (max(errors) <= bound and max(values) <= (2e-3 if allowed else 5e-5)):
                    wrong.append(f"N={n} d={d} {dtype} tf32={allowed}: gradients {errors}, values {values}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[4096, 16384, 65536], help="numbers of vectors")
    parser.add_argument("--d", type=int, nargs="+", default=[384, 768], help="their dimensions")
    parser.add_argument("--sentences", type=int, default=4096, help="of attention and encode, 5 to 64 tokens each")
    parser.add_argument("--repeats", type=int, default=10, help="rounds; the median counts")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--only", choices=[*SECTIONS], nargs="+", default=[*SECTIONS], help="sections to run")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device, and PyTorch finds none here.", file=sys.stderr)
        return 2
    if not triton_installed():
        print("benchmarks/gpu.py needs triton, which CUDA builds of torch bring: pip install triton.", file=sys.stderr)
        return 2

    import triton

    device = torch.cuda.get_device_name()
    now = datetime.datetime.now(datetime.timezone.utc)
    about = {
        "device": device,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": now.isoformat(timespec="minutes"),
    }
    print("  ".join(f"{key}: {value}" for key, value in about.items()))
    wrong = wrong_results() + wrong_attention() + wrong_vectors()
    for line in wrong:
        print(f"wrong: {line}")
    if wrong:
        return 1
    print("results agree with float64")
    limits = ceilings(arguments.repeats)
    print("ceilings: " + ", ".join(f"{k} {v:.0f} {'GB/s' if k == 'copy' else 'TFLOP/s'}" for k, v in limits.items()))
    print(
        f"{'section':<14}{'shape':<36}{'contender':<34}{'product':<8}"
        f"{'ms':>10}{'ratio':>8}{'TFLOP/s':>9}{'share':>7}{'GB/s':>8}{'extra':>7}"
    )
    rows: list[Row] = []
    for section in arguments.only:
        for row in SECTIONS[section](Options(arguments.n, arguments.d, arguments.sentences, arguments.repeats)):
            rows.append(row)
            print(
                f"{row.section:<14}{row.shape:<36}{row.contender:<34}{row.product:<8}{row.milliseconds:>10.3f}{row.ratio:>8.2f}"
                f"{row.tflops:>9.1f}{row.tflops / limits[row.product]:>7.0%}"
                f"{row.gigabytes_per_second:>8.0f}{row.extra:>7.1f}",
                flush=True,
            )
    name = f"gpu-{device.replace(' ', '-').lower()}-{now:%Y-%m-%d}.json"
    target = arguments.json or RESULTS / name
    targets = checks(rows, limits)
    record = {"about": about, "ceilings": limits, "rows": [asdict(row) for row in rows], "targets": targets}
    target.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {target}")
    for words, met in targets.items():
        print(f"{'met' if met else 'MISSED'}: {words}")
    return 0 if all(targets.values()) or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
