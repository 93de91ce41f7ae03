// Vectors of floats whose width the including file chooses, and the exponential on them.
//
// No include guard: a file defines SPARSECSE_ISA (a namespace name) and SPARSECSE_VECTOR_BYTES, selects its instruction
// set with a target pragma (after including immintrin.h for 64 bytes), and then includes this once. The namespace keeps
// the copies for different instruction sets from being merged by the linker, which would run AVX-512 code on a machine
// without it. For the same reason nothing here calls the standard library.
#include "scalars.h"

namespace sparsecse::SPARSECSE_ISA {

using VecF = float __attribute__((vector_size(SPARSECSE_VECTOR_BYTES)));
using VecU = std::uint32_t __attribute__((vector_size(SPARSECSE_VECTOR_BYTES)));
constexpr int lanes = SPARSECSE_VECTOR_BYTES / 4;
constexpr float log2_e = 1.44269504f;

// One type for loads and stores at any address; the plain one promises alignment to its whole width.
using VecFUnaligned = float __attribute__((vector_size(SPARSECSE_VECTOR_BYTES), aligned(4), may_alias));

static inline VecF load(const float* p) { return *reinterpret_cast<const VecFUnaligned*>(p); }
static inline void store(float* p, VecF v) { *reinterpret_cast<VecFUnaligned*>(p) = v; }
// Minus zero changes no float, so this is a plain broadcast; plus zero would be an addition, for the sake of -0.
static inline VecF splat(float x) { return x - VecF{}; }

// The smaller and the larger, and where `value` is NaN, NaN. (One instruction each on x86, which returns its second
// operand when either is NaN; compilers do not find it from the comparison in AVX-512 code.)
static inline VecF at_most(VecF value, VecF limit) {
#if SPARSECSE_VECTOR_BYTES == 64
  return reinterpret_cast<VecF>(_mm512_min_ps(reinterpret_cast<__m512>(limit), reinterpret_cast<__m512>(value)));
#else
  return limit < value ? limit : value;
#endif
}

static inline VecF at_least(VecF value, VecF limit) {
#if SPARSECSE_VECTOR_BYTES == 64
  return reinterpret_cast<VecF>(_mm512_max_ps(reinterpret_cast<__m512>(limit), reinterpret_cast<__m512>(value)));
#else
  return limit > value ? limit : value;
#endif
}

static inline float horizontal_sum(VecF v) {
  float parts[lanes];
  store(parts, v);
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) parts[i] += parts[i + width];
  return parts[0];
}

static inline float horizontal_max(VecF v) {
  float parts[lanes];
  store(parts, v);
  for (int i = 1; i < lanes; i++) parts[0] = parts[i] > parts[0] ? parts[i] : parts[0];
  return parts[0];
}

#if SPARSECSE_VECTOR_BYTES == 64
// 2^x for x <= 126, within 1 ulp; 0 below -126; NaN stays NaN. AVX-512 splits x = n + f with n whole and 0 <= f < 1,
// and scales by 2^n, in one instruction each; 2^f is the degree-6 polynomial of least relative error (2.0e-9).
static inline VecF exp2(VecF x) {
  const auto wide = reinterpret_cast<__m512>(x);
  const VecF f = reinterpret_cast<VecF>(_mm512_reduce_ps(wide, _MM_FROUND_TO_NEG_INF));
  VecF p = splat(2.16129150e-4f);
  p = p * f + 1.24678465e-3f;
  p = p * f + 9.67545157e-3f;
  p = p * f + 5.54852806e-2f;
  p = p * f + 2.40229306e-1f;
  p = p * f + 6.93147044e-1f;
  p = p * f + 1.0f;
  // Denormal results cost hundreds of cycles.
  const __mmask16 normal = _mm512_cmp_ps_mask(wide, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return reinterpret_cast<VecF>(_mm512_maskz_scalef_ps(normal, reinterpret_cast<__m512>(p), wide));
}
#else
// 2^x for x <= 126, within 1 ulp; 0 below -127; NaN stays NaN. Splits x = n + f with n whole and |f| <= 1/2, and
// takes 2^f from the degree-6 polynomial of least relative error (1.9e-9) on that interval.
static inline VecF exp2(VecF x) {
  // Adding 1.5 * 2^23 rounds to a whole number held in the low bits, already biased by 127 as an exponent is.
  const VecF magic = splat(12582912.0f + 127.0f);
  x = at_least(x, splat(-127.0f));
  const VecF shifted = x + magic;
  const VecF f = x - (shifted - magic);
  VecF p = splat(1.5345812e-4f);
  p = p * f + 1.33999309e-3f;
  p = p * f + 9.61848907e-3f;
  p = p * f + 5.55032864e-2f;
  p = p * f + 2.40226462e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.0f;
  return p * reinterpret_cast<VecF>(reinterpret_cast<VecU>(shifted) << 23);
}
#endif

}  // namespace sparsecse::SPARSECSE_ISA
