// The inference encoder's operations in bf16, and in int8 with bf16 values: AVX-512's dot products, and AMX's tiles.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,amx-tile,amx-bf16,amx-int8"
#define SPARSECSE_ISA encoder_bf16
#define SPARSECSE_VECTOR_BYTES 64
#include "target_begin.h"
#include "vector_math.h"
#include "encoder_generic.h"
#include "amx_tiles.h"
#include "bf16_dot.h"
#include "encoder_int8.h"

namespace sparsecse::encoder_bf16 {

struct Bf16Rows {
  static constexpr bool scaled = false;
  static constexpr int bytes = 2;
  static inline void put(void* row, int column, VecF v) {
    const __m256bh half = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<std::uint16_t*>(row) + column), (__m256i)half);
  }
  static inline VecF widen(__m256i half) {
    return reinterpret_cast<VecF>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static inline VecF get(const void* row, int column) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const std::uint16_t*>(row) + column)));
  }
  struct Writer {
    void* row;
    Writer(const Norm&, const float*, const OperandRows& out, int i) : row(out.words + i * out.lda) {}
    inline void put(int column, VecF v) { Bf16Rows::put(row, column, v); }
    inline void finish() {}
  };
};

// x Phi(x) within 2e-4, less than what bf16 leaves of most values: Phi(x) - 1/2 as the odd polynomial that comes nearest
// on [-4, 4] in the error of the product.
struct GeluShort {
  static inline VecF apply(VecF x) {
    const VecF near = at_most(at_least(x, splat(-4.0f)), splat(4.0f));
    const VecF u = near * near;
    VecF p = splat(2.2781199e-8f);
    p = p * u - 1.5985893e-6f;
    p = p * u + 4.7955244e-5f;
    p = p * u - 8.1401266e-4f;
    p = p * u + 8.7723741e-3f;
    p = p * u - 6.4573079e-2f;
    p = p * u + 3.9788333e-1f;
    return x * (p * near + 0.5f);
  }
};

static void configure_tiles() { configure_tiles(TileConfig{}); }

// A thread with live tiles costs the kernel 8 KB at every context switch.
static void release_tiles() { _tile_release(); }

template <bool Int8, int Rows>
static inline void multiply_weights_square(const Word* a0, std::ptrdiff_t a_stride, const Word* b, int kw, float* c,
                                           bool accumulate) {
  constexpr int b_stride = panel_width * 4, c_stride = panel_width * 4;
  const Word* a1 = a0 + a_stride / 4 * 16;
  float* c1 = c + 16 * panel_width;
  if (accumulate) {
    _tile_loadd(0, c, c_stride);
    _tile_loadd(1, c + 16, c_stride);
    if (Rows == 32) {
      _tile_loadd(2, c1, c_stride);
      _tile_loadd(3, c1 + 16, c_stride);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if (Rows == 32) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  for (int k = 0; k < kw; k += 16, b += 16 * panel_width) {
    _tile_loadd(6, b, b_stride);
    _tile_loadd(4, a0 + k, a_stride);
    _tile_loadd(7, b + 16, b_stride);
    if constexpr (Int8) {
      _tile_dpbssd(0, 4, 6);
      if (Rows == 32) _tile_loadd(5, a1 + k, a_stride);
      _tile_dpbssd(1, 4, 7);
      if (Rows == 32) {
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
      }
    } else {
      _tile_dpbf16ps(0, 4, 6);
      if (Rows == 32) _tile_loadd(5, a1 + k, a_stride);
      _tile_dpbf16ps(1, 4, 7);
      if (Rows == 32) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, c, c_stride);
  _tile_stored(1, c + 16, c_stride);
  if (Rows == 32) {
    _tile_stored(2, c1, c_stride);
    _tile_stored(3, c1 + 16, c_stride);
  }
}

// Not inlined, with memory barriers at both ends: the compiler does not know that tile loads read memory.
template <bool Int8>
static __attribute__((noinline)) void multiply_weights_amx(const Word* a, std::ptrdiff_t lda, const Word* b, int kw,
                                                           float* c, std::ptrdiff_t c_panel, int m, int panels,
                                                           bool accumulate, const Word*) {
  asm volatile("" ::: "memory");
  for (int p = 0; p < panels; p++, c += c_panel, b += static_cast<std::ptrdiff_t>(kw) * panel_width) {
    int i = 0;
    for (; i + 16 < m; i += 32)
      multiply_weights_square<Int8, 32>(a + i * lda, lda * 4, b, kw, c + i * panel_width, accumulate);
    if (i < m) multiply_weights_square<Int8, 16>(a + i * lda, lda * 4, b, kw, c + i * panel_width, accumulate);
  }
  asm volatile("" ::: "memory");
}

}  // namespace sparsecse::encoder_bf16

#include "target_end.h"

namespace sparsecse {

// One block of K is all of it: tiles are loaded from the L2 cache as fast as they are multiplied.
constexpr int all_of_k = 1 << 20;

const EncoderKernels encoder_avx512bf16 = {
    .bf16_values = true,
    .word_elements = 2,
    .k_block = 128,
    .row_multiple = 1,
    .int8_zero = 0,
    .enter = encoder_bf16::nothing,
    .leave = encoder_bf16::nothing,
    .gemm = encoder_bf16::multiply_weights<encoder_bf16::Bf16Dot>,
    .embed = encoder_bf16::embed<encoder_bf16::Bf16Rows>,
    .activate = encoder_bf16::activate<encoder_bf16::Bf16Rows, false, encoder_bf16::GeluShort>,
    .gate = nullptr,
    .add_norm = encoder_bf16::add_norm<encoder_bf16::Bf16Rows>,
    .quantise = nullptr,
};

const EncoderKernels encoder_avx512bf16_int8 = {
    .bf16_values = true,
    .word_elements = 4,
    .k_block = 128,
    .row_multiple = 1,
    .int8_zero = 128,
    .enter = encoder_bf16::nothing,
    .leave = encoder_bf16::nothing,
    .gemm = encoder_bf16::multiply_weights<encoder_bf16::Int8Dot>,
    .embed = encoder_bf16::embed<encoder_bf16::Int8Rows<128>>,
    .activate = encoder_bf16::activate<encoder_bf16::Bf16Rows, true, encoder_bf16::GeluShort>,
    .gate = nullptr,
    .add_norm = encoder_bf16::add_norm<encoder_bf16::Int8Rows<128>>,
    .quantise = encoder_bf16::quantise<128, encoder_bf16::Bf16Rows>,
};

const EncoderKernels encoder_amx = {
    .bf16_values = true,
    .word_elements = 2,
    .k_block = all_of_k,
    .row_multiple = 32,
    .int8_zero = 0,
    .enter = encoder_bf16::configure_tiles,
    .leave = encoder_bf16::release_tiles,
    .gemm = encoder_bf16::multiply_weights_amx<false>,
    .embed = encoder_bf16::embed<encoder_bf16::Bf16Rows>,
    .activate = encoder_bf16::activate<encoder_bf16::Bf16Rows, false, encoder_bf16::GeluShort>,
    .gate = nullptr,
    .add_norm = encoder_bf16::add_norm<encoder_bf16::Bf16Rows>,
    .quantise = nullptr,
};

const EncoderKernels encoder_amx_int8 = {
    .bf16_values = true,
    .word_elements = 4,
    .k_block = all_of_k,
    .row_multiple = 32,
    .int8_zero = 0,
    .enter = encoder_bf16::configure_tiles,
    .leave = encoder_bf16::release_tiles,
    .gemm = encoder_bf16::multiply_weights_amx<true>,
    .embed = encoder_bf16::embed<encoder_bf16::Int8Rows<0>>,
    .activate = encoder_bf16::activate<encoder_bf16::Bf16Rows, true, encoder_bf16::GeluShort>,
    .gate = nullptr,
    .add_norm = encoder_bf16::add_norm<encoder_bf16::Int8Rows<0>>,
    .quantise = encoder_bf16::quantise<0, encoder_bf16::Bf16Rows>,
};

}  // namespace sparsecse
#endif
