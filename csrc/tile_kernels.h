// The table of block operations that the pairwise kernels (uniformity, row log-sum-exp) are written in.
//
// A block is a group of vectors, packed into 32-bit words: one float, or (`pairs`) two bf16 that are neighbours along
// the dimension a product sums over. Both kinds have the same layouts, counted in words:
//   rows     [n, kw]              the vectors as they are, kw = d words, or d / 2 with pairs: left operand
//   columns  [n / 32, kw, 32]     the same transposed, in panels of 32 vectors: right operand of dots = X Y^T
//   panels   [d / 32, nw, 32]     panels of 32 coordinates, nw = n words, or n / 2 with pairs: right operand of W X
// n and d are padded with zeros to multiples of 32, so no kernel has a remainder to handle.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.h"

namespace sparsecse {

using Word = std::uint32_t;
constexpr int panel_width = 32;
constexpr int strip_rows = 32;
constexpr int strip_columns = 128;

constexpr long round_up(long n, long multiple) { return (n + multiple - 1) / multiple * multiple; }

// Where packed vectors come from: float or bf16 [*, d], row-major, with `origin` subtracted.
struct Source {
  const void* data;     // [*, d]
  const float* origin;  // [d], or null for no shift; must be null where the kernels keep bf16
  long d;
  bool bf16;
};

// One strip (strip_rows rows and as many columns as stay in the L1 cache) of dot products on its way to weights:
//   w[i][j] = row_scale[i] * 2^min(factor * dots[i][j] + row_bias[i] + col_bias[j], ceiling)
struct WeightStrip {
  float* dots;             // [strip_rows, ld], in; without pairs also the weights, out
  std::ptrdiff_t ld;
  int n;                   // columns, a multiple of 32, at most strip_columns
  const float* row_bias;   // [strip_rows]; -infinity marks padding, as it does in col_bias
  const float* col_bias;   // [n]
  const float* row_scale;  // [strip_rows], or null for 1
  float factor, ceiling;
  Word* w;                 // with pairs: [strip_rows, w_ld] words, the weights in bf16; else unused
  std::ptrdiff_t w_ld;
  Word* w_transposed;      // with pairs: [n, wt_ld] words, strip_rows / 2 of each row written; else unused
  std::ptrdiff_t wt_ld;
  float* row_sums;         // [strip_rows], added to: sums of the weights as rounded
  float* col_sums;         // [n], added to: the same
  double total;            // out: sum of the weights before rounding to bf16
};

struct AttentionTask;
struct AttentionGradTask;
struct AttentionBuffers;

struct TileKernels {
  bool pairs;
  // Vectors first .. first + valid of the source -> rows [padded_n, padded_d] as floats or bf16.
  void (*pack_rows)(const Source& source, long first, int valid, int padded_n, int padded_d, Word* rows);
  void (*pack_columns)(const Word* rows, int padded_n, int kw, Word* columns);
  void (*pack_panels)(const Word* rows, int padded_n, int padded_d, Word* panels);
  // c = (or +=, with accumulate) a [m, k] * b [n / 32, k, 32], k in words. m and n: multiples of 32. With `transposed`,
  // a is [k, lda] read by columns (floats only). c is in panels of 32 columns too: element (i, j) lies at
  // c[j / 32 * c_panel + i * ldc + j % 32].
  void (*gemm)(const Word* a, std::ptrdiff_t lda, bool transposed, const Word* b, int k, float* c, std::ptrdiff_t ldc,
               std::ptrdiff_t c_panel, int m, int n, bool accumulate);
  void (*weigh)(WeightStrip& strip);
  // Sum of the strip's weights alone.
  double (*sum_weights)(const WeightStrip& strip);
  // Largest exponent factor * dots + row_bias + col_bias of the strip.
  float (*max_exponent)(const WeightStrip& strip);
  // Online log-sum-exp: per row, the running maximum of the exponents and the sum of 2^(exponent - maximum).
  void (*update_lse)(const WeightStrip& strip, float* row_max, float* row_sum);
  // Attention, in attention_task.h's terms. Gradients are computed in floats alone: null where there are pairs.
  void (*attend)(const AttentionTask& task, const AttentionBuffers& buffers);
  void (*attend_gradients)(const AttentionGradTask& task, const AttentionBuffers& buffers);
};

// Kernels that multiply floats, for any input.
const TileKernels& float_kernels(CpuLevel level);
// Kernels for bf16 input: those that multiply bf16 where the level has them, else the float kernels.
const TileKernels& bf16_kernels(CpuLevel level);

// One per instruction set, each in the file of that name.
extern const TileKernels tile_portable, tile_avx2, tile_avx512, tile_avx512bf16, tile_amx;

}  // namespace sparsecse
