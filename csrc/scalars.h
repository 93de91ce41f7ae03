// Rounding to bf16 and back, and the hash of the dropout mask. No include guard: it goes into the namespace of whichever
// instruction set is selected, as vector_math.h does; files without one define SPARSECSE_ISA alone.
#include <cstdint>

namespace sparsecse::SPARSECSE_ISA {

static inline float bf16_to_float(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &word, 4);
  return value;
}

// To the nearest, of two to the even one; NaN stays NaN.
static inline std::uint16_t float_to_bf16(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}

// kernels/reference.py defines it in words. Integer: std::uint32_t or a vector of them.
template <class Integer>
static inline Integer mix(Integer x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

}  // namespace sparsecse::SPARSECSE_ISA
