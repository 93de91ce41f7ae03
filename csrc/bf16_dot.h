// Products of pairs of bf16 with AVX512-BF16; included after products_generic.h by the files that have selected it.
#include "tile_kernels.h"

namespace sparsecse::SPARSECSE_ISA {

struct Bf16Dot {
  using Sum = VecF;
  using Stored = VecFUnaligned;
  using Operand = __m512bh;
  static inline Operand broadcast(Word word) { return (__m512bh)_mm512_set1_epi32(static_cast<int>(word)); }
  static inline Operand read(const Word* words) { return (__m512bh)_mm512_loadu_si512(words); }
  static inline Sum add(Sum sum, Operand a, Operand b) {
    return reinterpret_cast<VecF>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
  }
};

}  // namespace sparsecse::SPARSECSE_ISA
