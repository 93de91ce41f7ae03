// Transposing 16 x 16 words in AVX-512 registers; included by files that have selected AVX-512, after immintrin.h and
// with SPARSECSE_ISA defined.
#include "tile_kernels.h"

namespace sparsecse::SPARSECSE_ISA {

// Four rounds; each exchanges the halves of blocks twice as large as the round before: words, pairs of words, then
// the four 128-bit lanes in two steps.
static inline __attribute__((always_inline)) void transpose_16x16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4 g + c] now holds, in lane l, words c + 4 l of rows 4 g .. 4 g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    t[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    t[8 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    r[c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0x88);
    r[8 + c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0xdd);
    r[4 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0x88);
    r[12 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0xdd);
  }
}

// Up to 16 rows of 16 words, `stride` bytes apart, to out [16, 16] transposed. Columns past the last row hold anything.
static inline void transpose_rows(const void* rows, std::ptrdiff_t stride, int count, Word* out) {
  if (count == 16) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(static_cast<const char*>(rows) + i * stride);
    transpose_16x16(r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * 16, r[i]);
    return;
  }
  const auto row = [=](int i) {
    return i < count ? _mm512_loadu_si512(static_cast<const char*>(rows) + i * stride) : _mm512_setzero_si512();
  };
  if (count > 8) {
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = row(i);
    transpose_16x16(r);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + i * 16, r[i]);
    return;
  }
  // Of few rows, four at a time: two of the rounds, then one 128-bit lane to each row of the result.
  for (int i = 0; i < count; i += 4) {
    const __m512i r[4] = {row(i), row(i + 1), row(i + 2), row(i + 3)};
    const __m512i t[4] = {_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[0], r[1]),
                          _mm512_unpacklo_epi32(r[2], r[3]), _mm512_unpackhi_epi32(r[2], r[3])};
    const __m512i columns[4] = {_mm512_unpacklo_epi64(t[0], t[2]), _mm512_unpackhi_epi64(t[0], t[2]),
                                _mm512_unpacklo_epi64(t[1], t[3]), _mm512_unpackhi_epi64(t[1], t[3])};
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
      Word* to = out + c * 16 + i;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(columns[c]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 64), _mm512_extracti32x4_epi32(columns[c], 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 128), _mm512_extracti32x4_epi32(columns[c], 2));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 192), _mm512_extracti32x4_epi32(columns[c], 3));
    }
  }
}

[[maybe_unused]] static void pack_columns(const Word* rows, int padded_n, int kw, Word* columns) {
  for (int j = 0; j < padded_n; j += panel_width, columns += static_cast<long>(kw) * panel_width)
    for (int half = 0; half < panel_width; half += 16)
      for (int k = 0; k < kw; k += 16) {
        __m512i r[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(rows + static_cast<long>(j + half + i) * kw + k);
        transpose_16x16(r);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(columns + (k + i) * panel_width + half, r[i]);
      }
}

}  // namespace sparsecse::SPARSECSE_ISA
