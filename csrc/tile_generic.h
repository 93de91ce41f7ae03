// Block operations for floats in vectors of any width; included once by each instruction set's file, like and after
// vector_math.h. The compiler turns `acc += scalar * vector` into a broadcast and a fused multiply-add.
#include "products_generic.h"
#include "tile_kernels.h"

namespace sparsecse::SPARSECSE_ISA {

[[maybe_unused]] static void pack_float_rows(const Source& source, long first, int valid, int padded_n, int padded_d,
                                             Word* rows) {
  float* __restrict out = reinterpret_cast<float*>(rows);
  const float* __restrict origin = source.origin;
  const long d = source.d;
  for (int i = 0; i < padded_n; i++, out += padded_d) {
    const long filled = i < valid ? d : 0, start = (first + i) * d;
    if (filled && source.bf16) {
      const std::uint16_t* __restrict in = static_cast<const std::uint16_t*>(source.data) + start;
      if (origin)
        for (long k = 0; k < d; k++) out[k] = bf16_to_float(in[k]) - origin[k];
      else
        for (long k = 0; k < d; k++) out[k] = bf16_to_float(in[k]);
    } else if (filled) {
      const float* __restrict in = static_cast<const float*>(source.data) + start;
      if (origin)
        for (long k = 0; k < d; k++) out[k] = in[k] - origin[k];
      else
        __builtin_memcpy(out, in, d * sizeof(float));
    }
    for (long k = filled; k < padded_d; k++) out[k] = 0.0f;
  }
}

[[maybe_unused]] static void pack_float_panels(const Word* rows, int padded_n, int padded_d, Word* panels) {
  // Row after row: they may come from far away, and reading on is what hardware prefetches.
  for (int i = 0; i < padded_n; i++)
    for (int c = 0; c < padded_d; c += panel_width, rows += panel_width)
      __builtin_memcpy(panels + static_cast<long>(c) * padded_n + i * panel_width, rows, panel_width * sizeof(Word));
}

#ifndef SPARSECSE_OWN_PACK_COLUMNS
static void pack_columns(const Word* rows, int padded_n, int kw, Word* columns) {
  // Eight words of a row at a time: each cache line is then read twice or four times, not sixteen.
  for (int j = 0; j < padded_n; j += panel_width, columns += static_cast<long>(kw) * panel_width)
    for (int k0 = 0; k0 < kw; k0 += 8)
      for (int v = 0; v < panel_width; v++)
        for (int k = k0; k < k0 + 8; k++) columns[k * panel_width + v] = rows[static_cast<long>(j + v) * kw + k];
}
#endif

[[maybe_unused]] static void gemm_float(const Word* a, std::ptrdiff_t lda, bool transposed, const Word* b, int k, float* c,
                                        std::ptrdiff_t ldc, std::ptrdiff_t c_panel, int m, int n, bool accumulate) {
  const auto run = transposed ? multiply_panels<FloatDot, true> : multiply_panels<FloatDot, false>;
  run(a, lda, b, k, c, ldc, c_panel, m, n / panel_width, accumulate, nullptr);
}

static inline VecF exponents(const WeightStrip& s, int i, int j) {
  return load(s.dots + i * s.ld + j) * s.factor + (load(s.col_bias + j) + s.row_bias[i]);
}

// The ceiling stands for: a squared distance is never negative and a probability never above one, whatever rounding
// says.
static inline VecF weights(const WeightStrip& s, int i, int j) {
  return exp2(at_most(exponents(s, i, j), splat(s.ceiling)));
}

[[maybe_unused]] static void weigh_float(WeightStrip& strip) {
  // A copy that nothing else can point to: its fields stay in registers.
  const WeightStrip s = strip;
  double total = 0;
  for (int i = 0; i < strip_rows; i++) {
    VecF sum = {};
    for (int j = 0; j < s.n; j += lanes) {
      VecF w = weights(s, i, j);
      if (s.row_scale) w *= s.row_scale[i];
      sum += w;
      store(s.col_sums + j, load(s.col_sums + j) + w);
      store(s.dots + i * s.ld + j, w);
    }
    const float row_sum = horizontal_sum(sum);
    s.row_sums[i] += row_sum;
    total += row_sum;
  }
  strip.total = total;
}

static double sum_weights(const WeightStrip& s) {
  double total = 0;
  for (int i = 0; i < strip_rows; i++) {
    VecF sum = {};
    for (int j = 0; j < s.n; j += lanes) sum += weights(s, i, j);
    total += horizontal_sum(sum);
  }
  return total;
}

// The larger, and where `value` is NaN, `best`.
static inline VecF larger(VecF value, VecF best) { return at_least(best, value); }

static float max_exponent(const WeightStrip& s) {
  VecF best = splat(-__builtin_inff());
  for (int i = 0; i < strip_rows; i++)
    for (int j = 0; j < s.n; j += lanes) {
      best = larger(exponents(s, i, j), best);
    }
  return horizontal_max(best);
}

static void update_lse(const WeightStrip& s, float* row_max, float* row_sum) {
  for (int i = 0; i < strip_rows; i++) {
    VecF best = splat(row_max[i]);
    for (int j = 0; j < s.n; j += lanes) {
      best = larger(exponents(s, i, j), best);
    }
    // Where every exponent so far is NaN the maximum is still -infinity; the sum below becomes NaN, as it should.
    const float top = horizontal_max(best);
    VecF sum = {};
    for (int j = 0; j < s.n; j += lanes) sum += exp2(exponents(s, i, j) - top);
    const float old = row_max[i] == top ? row_sum[i] : row_sum[i] * exp2(splat(row_max[i] - top))[0];
    row_sum[i] = old + horizontal_sum(sum);
    row_max[i] = top;
  }
}

}  // namespace sparsecse::SPARSECSE_ISA
