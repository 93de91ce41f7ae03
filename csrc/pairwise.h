// The pairwise kernels: what the Python module binds.
#pragma once

#include "cpu.h"

namespace sparsecse {

constexpr double log2_e = 1.4426950408889634;

// log mean over i != j of exp(-t ||x_i - x_j||^2), and its gradient where `grad` is not null.
// x: [n, d] floats or bf16; grad: [n rounded up to 32, d rounded up to 32], overwritten (the padding with zeros).
double uniformity(const void* x, bool bf16, long n, long d, double t, float* grad, int threads, CpuLevel level);

// lse[i] = log sum_j exp(scale * a_i . b_j). a: [n, d], b: [m, d], floats or bf16; lse: [n].
void row_logsumexp(const void* a, const void* b, bool bf16, long n, long m, long d, double scale, float* lse,
                   int threads, CpuLevel level);

// The gradients of row_logsumexp. lse: [n], its result; upstream: [n]; grad_a: [n rounded up to 32, d rounded up to
// 32] and grad_b: [m rounded up to 32, the same], overwritten.
void row_logsumexp_grad(const void* a, const void* b, bool bf16, long n, long m, long d, double scale, const float* lse,
                        const float* upstream, float* grad_a, float* grad_b, int threads, CpuLevel level);

}  // namespace sparsecse
