// Row-wise log-sum-exp of scaled dot products between two sets of vectors, and its gradients.
//
// With p_ij = exp(scale a_i.b_j - lse_i) and upstream gradient g:
//   grad_a_i = scale * g_i sum_j p_ij b_j        grad_b_j = scale * sum_i g_i p_ij a_i
#include <cmath>
#include <exception>
#include <limits>
#include <vector>

#include "blocks.h"
#include "pairwise.h"

namespace sparsecse {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Per-thread scratch, made inside the parallel region.
struct Workspace {
  PackedBlock left, right;
  WeightBlock weights;
  Workspace(const TileKernels& kernels, const VectorSet& a, const VectorSet& b)
      : left(a), right(b), weights(kernels, a.block, b.block) {}
};

// 0 for the vectors there are and -infinity for padding.
std::vector<float> padding_bias(const VectorSet& set) {
  std::vector<float> bias(static_cast<std::size_t>(set.padded_n()), 0.0f);
  for (long i = set.n; i < set.padded_n(); i++) bias[i] = -infinity;
  return bias;
}

VectorSet vector_set(const void* data, bool bf16, long n, long d) {
  return {{data, nullptr, d, bf16}, n, n > 384 ? 192 : 64, static_cast<int>(round_up(d, panel_width))};
}

// The gradient of a set, block by block from panels to rows.
void to_rows(const VectorSet& set, float* grad) {
  const auto temp = make_scratch<float>(static_cast<long>(set.block) * set.padded_d);
  for (long b = 0; b < set.blocks(); b++)
    panels_to_rows(grad + b * set.block * static_cast<long>(set.padded_d), set.padded(b), set.padded_d, temp.get());
}

}  // namespace

void row_logsumexp(const void* a_data, const void* b_data, bool bf16, long n, long m, long d, double scale, float* lse,
                   int threads, CpuLevel level) {
  const TileKernels& kernels = bf16 ? bf16_kernels(level) : float_kernels(level);
  const VectorSet a = vector_set(a_data, bf16, n, d), b = vector_set(b_data, bf16, m, d);
  const std::vector<float> zero(strip_rows, 0.0f), col_bias = padding_bias(b);
  std::exception_ptr failure;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (long left = 0; left < a.blocks(); left++) {
    try {
      Workspace work(kernels, a, b);
      work.left.pack(kernels, a, left, true, false);
      std::vector<float> row_max(work.left.n, -infinity), row_sum(work.left.n, 0.0f);
      for (long right = 0; right < b.blocks(); right++) {
        work.right.pack(kernels, b, right, false, false);
        for (int i = 0; i < work.left.n; i += strip_rows)
          for (int j = 0; j < work.right.n; j += strip_columns) {
            WeightStrip strip = work.weights.strip(kernels, work.left, work.right, i, j);
            strip.row_bias = zero.data();
            strip.col_bias = col_bias.data() + right * b.block + j;
            strip.factor = static_cast<float>(scale * log2_e);
            kernels.update_lse(strip, row_max.data() + i, row_sum.data() + i);
          }
      }
      for (int i = 0; i < a.valid(left); i++)
        lse[left * a.block + i] =
            static_cast<float>((row_max[i] + std::log2(static_cast<double>(row_sum[i]))) / log2_e);
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

void row_logsumexp_grad(const void* a_data, const void* b_data, bool bf16, long n, long m, long d, double scale,
                        const float* lse, const float* upstream, float* grad_a, float* grad_b, int threads,
                        CpuLevel level) {
  const TileKernels& kernels = bf16 ? bf16_kernels(level) : float_kernels(level);
  const VectorSet a = vector_set(a_data, bf16, n, d), b = vector_set(b_data, bf16, m, d);
  const std::vector<float> col_bias = padding_bias(b);
  std::vector<float> row_bias(static_cast<std::size_t>(a.padded_n()), -infinity);
  std::vector<float> row_scale(static_cast<std::size_t>(a.padded_n()), 0.0f);
  for (long i = 0; i < n; i++) {
    row_bias[i] = static_cast<float>(-lse[i] * log2_e);
    row_scale[i] = static_cast<float>(scale * upstream[i]);
  }
  const long rounds = a.blocks() > b.blocks() ? a.blocks() : b.blocks();
  const int padded_d = a.padded_d;
  std::exception_ptr failure;
#pragma omp parallel num_threads(threads)
  {
    std::unique_ptr<Workspace> work;
    try {
      work = std::make_unique<Workspace>(kernels, a, b);
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
#pragma omp barrier
#pragma omp for
    for (long i = 0; i < a.padded_n() * padded_d; i++) grad_a[i] = 0.0f;
#pragma omp for
    for (long i = 0; i < b.padded_n() * padded_d; i++) grad_b[i] = 0.0f;
    // In round r left block l meets right block (l + r) modulo the rounds: no two threads add to one block, and the
    // order of additions does not depend on their number.
    for (long round = 0; round < rounds; round++) {
#pragma omp for schedule(dynamic, 1)
      for (long left = 0; left < a.blocks(); left++) {
        const long right = (left + round) % rounds;
        if (failure || right >= b.blocks()) continue;
        work->left.pack(kernels, a, left, true, true);
        work->right.pack(kernels, b, right, false, true);
        // The kernels sum weights for uniformity's sake; here the sums go unused.
        float row_sums[strip_rows] = {}, col_sums[strip_columns] = {};
        for (int i = 0; i < work->left.n; i += strip_rows)
          for (int j = 0; j < work->right.n; j += strip_columns) {
            WeightStrip strip = work->weights.strip(kernels, work->left, work->right, i, j);
            strip.row_bias = row_bias.data() + left * a.block + i;
            strip.col_bias = col_bias.data() + right * b.block + j;
            strip.row_scale = row_scale.data() + left * a.block + i;
            strip.factor = static_cast<float>(scale * log2_e);
            strip.row_sums = row_sums;
            strip.col_sums = col_sums;
            kernels.weigh(strip);
          }
        work->weights.times_right(kernels, work->left.n, work->right, padded_d,
                                  grad_a + left * a.block * static_cast<long>(padded_d));
        work->weights.transposed_times_left(kernels, work->right.n, work->left, padded_d,
                                            grad_b + right * b.block * static_cast<long>(padded_d));
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
  to_rows(a, grad_a);
  to_rows(b, grad_b);
}

}  // namespace sparsecse
