// Block operations on pairs of bf16: AVX512-BF16's dot product, and AMX's tiles of them.
#include "attention_task.h"
#include "tile_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,amx-tile,amx-bf16"
#define SPARSECSE_ISA bf16
#define SPARSECSE_VECTOR_BYTES 64
#define SPARSECSE_OWN_PACK_COLUMNS
#include "target_begin.h"
#include "transpose_avx512.h"
#include "vector_math.h"
#include "tile_generic.h"
#include "amx_tiles.h"
#include "bf16_dot.h"
#include "attention_generic.h"

namespace sparsecse::bf16 {

static void pack_rows(const Source& source, long first, int valid, int padded_n, int padded_d, Word* rows) {
  auto* out = reinterpret_cast<std::uint16_t*>(rows);
  for (int i = 0; i < padded_n; i++, out += padded_d) {
    const long filled = i < valid ? source.d : 0;
    const auto* in = static_cast<const std::uint16_t*>(source.data) + (first + i) * source.d;
    if (filled) __builtin_memcpy(out, in, filled * 2);
    __builtin_memset(out + filled, 0, (padded_d - filled) * 2);
  }
}

// Words (x[c], y[c]) of the low (`high` = 0) or the high (16) sixteen of 32 coordinates.
static inline __m512i interleave(__m512i x, __m512i y, int high) {
  const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i index = _mm512_add_epi32(_mm512_mullo_epi32(count, _mm512_set1_epi32(0x10001)),
                                         _mm512_set1_epi32((32 << 16) + high * 0x10001));
  return _mm512_permutex2var_epi16(x, index, y);
}

static void pack_panels(const Word* rows, int padded_n, int padded_d, Word* panels) {
  const auto* in = reinterpret_cast<const std::uint16_t*>(rows);
  // Row after row: they may come from far away, and reading on is what hardware prefetches.
  for (int i = 0; i < padded_n; i += 2, in += padded_d)
    for (int c = 0; c < padded_d; c += panel_width, in += panel_width) {
      const __m512i first = _mm512_loadu_si512(in), second = _mm512_loadu_si512(in + padded_d);
      Word* out = panels + static_cast<long>(c) * (padded_n / 2) + i / 2 * panel_width;
      _mm512_storeu_si512(out, interleave(first, second, 0));
      _mm512_storeu_si512(out + 16, interleave(first, second, 16));
    }
}

static void gemm_pairs(const Word* a, std::ptrdiff_t lda, bool, const Word* b, int k, float* c, std::ptrdiff_t ldc,
                       std::ptrdiff_t c_panel, int m, int n, bool accumulate) {
  multiply_panels<Bf16Dot, false>(a, lda, b, k, c, ldc, c_panel, m, n / panel_width, accumulate, nullptr);
}

// Not inlined, with memory barriers at both ends: the compiler does not know that tile loads read memory.
static __attribute__((noinline)) void gemm_amx(const Word* a, std::ptrdiff_t lda, bool, const Word* b, int k, float* c,
                                               std::ptrdiff_t ldc, std::ptrdiff_t c_panel, int m, int n,
                                               bool accumulate) {
  asm volatile("" ::: "memory");
  configure_tiles(TileConfig{});
  const std::ptrdiff_t a_stride = lda * 4, c_stride = ldc * 4, b_stride = panel_width * 4;
  for (int j = 0; j < n; j += panel_width, c += c_panel) {
    const Word* panel = b + static_cast<long>(j) * k;
    for (int i = 0; i < m; i += 32) {
      float* c0 = c + i * ldc;
      float* c1 = c0 + 16 * ldc;
      const Word* a0 = a + i * lda;
      const Word* a1 = a0 + 16 * lda;
      if (accumulate) {
        _tile_loadd(0, c0, c_stride);
        _tile_loadd(1, c0 + 16, c_stride);
        _tile_loadd(2, c1, c_stride);
        _tile_loadd(3, c1 + 16, c_stride);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      // The next square's lines come from far away; asking for them now hides that behind the product.
      const float* next = i + 32 < m ? c0 + 32 * ldc : c + c_panel;
      const bool prefetch = accumulate && (i + 32 < m || j + panel_width < n);
      for (int kk = 0, ahead = 0; kk < k; kk += 16) {
        for (int stop = ahead + 4; prefetch && ahead < stop && ahead < 32; ahead++) {
          __builtin_prefetch(next + ahead * ldc, 1);
          __builtin_prefetch(next + ahead * ldc + 16, 1);
        }
        const Word* bk = panel + static_cast<long>(kk) * panel_width;
        _tile_loadd(6, bk, b_stride);
        _tile_loadd(4, a0 + kk, a_stride);
        _tile_loadd(7, bk + 16, b_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a1 + kk, a_stride);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, c0, c_stride);
      _tile_stored(1, c0 + 16, c_stride);
      _tile_stored(2, c1, c_stride);
      _tile_stored(3, c1 + 16, c_stride);
    }
  }
  // A thread with live tiles costs the kernel 8 KB at every context switch.
  _tile_release();
  asm volatile("" ::: "memory");
}

// Writes the weights in bf16 twice: as rows (pairs along j) and transposed (pairs along i). The sums are those of the
// rounded weights, so that in sum_j w_ij (x_i - x_j) both terms see the same w.
static void weigh_pairs(WeightStrip& strip) {
  const WeightStrip s = strip;
  const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  __m512 row_sums[strip_rows];
  for (int i = 0; i < strip_rows; i++) row_sums[i] = _mm512_setzero_ps();
  double strip_total = 0;
  for (int j = 0; j < s.n; j += 32) {
    __m512 col_sums[2] = {_mm512_loadu_ps(s.col_sums + j), _mm512_loadu_ps(s.col_sums + j + 16)};
    VecF total = {};
    __m512i pairs[2][16];
    for (int p = 0; p < 16; p++) {
      __m512i row[2];
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        const int i = 2 * p + h;
        VecF low = weights(s, i, j), high = weights(s, i, j + 16);
        if (s.row_scale) {
          low *= s.row_scale[i];
          high *= s.row_scale[i];
        }
        total += low + high;
        row[h] = (__m512i)_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
        row_sums[i] = _mm512_dpbf16_ps(row_sums[i], (__m512bh)row[h], ones);
        _mm512_storeu_si512(s.w + i * s.w_ld + j / 2, row[h]);
      }
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        pairs[h][p] = interleave(row[0], row[1], 16 * h);
        col_sums[h] = _mm512_dpbf16_ps(col_sums[h], (__m512bh)pairs[h][p], ones);
      }
    }
    strip_total += horizontal_sum(total);
    for (int h = 0; h < 2; h++) {
      _mm512_storeu_ps(s.col_sums + j + 16 * h, col_sums[h]);
      transpose_16x16(pairs[h]);
#pragma GCC unroll 16
      for (int v = 0; v < 16; v++) _mm512_storeu_si512(s.w_transposed + (j + 16 * h + v) * s.wt_ld, pairs[h][v]);
    }
  }
  for (int i = 0; i < strip_rows; i++) s.row_sums[i] += _mm512_reduce_add_ps(row_sums[i]);
  strip.total = strip_total;
}

}  // namespace sparsecse::bf16

#include "attention_bf16.h"

#include "target_end.h"

namespace sparsecse {

const TileKernels tile_avx512bf16 = {
    .pairs = true,
    .pack_rows = bf16::pack_rows,
    .pack_columns = bf16::pack_columns,
    .pack_panels = bf16::pack_panels,
    .gemm = bf16::gemm_pairs,
    .weigh = bf16::weigh_pairs,
    .sum_weights = bf16::sum_weights,
    .max_exponent = bf16::max_exponent,
    .update_lse = bf16::update_lse,
    .attend = bf16::attend_pairs<bf16::VectorProducts>,
    .attend_gradients = nullptr,
};

const TileKernels tile_amx = {
    .pairs = true,
    .pack_rows = bf16::pack_rows,
    .pack_columns = bf16::pack_columns,
    .pack_panels = bf16::pack_panels,
    .gemm = bf16::gemm_amx,
    .weigh = bf16::weigh_pairs,
    .sum_weights = bf16::sum_weights,
    .max_exponent = bf16::max_exponent,
    .update_lse = bf16::update_lse,
    .attend = bf16::attend_pairs<bf16::AmxProducts>,
    .attend_gradients = nullptr,
};

}  // namespace sparsecse
#endif
