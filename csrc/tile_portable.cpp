// Block operations in 16-byte vectors, which every 64-bit CPU has (SSE2, NEON), and the choice among all of them.
#include "attention_task.h"

#define SPARSECSE_ISA portable
#define SPARSECSE_VECTOR_BYTES 16
#include "vector_math.h"
#include "tile_generic.h"
#include "attention_generic.h"

namespace sparsecse {

const TileKernels tile_portable = {
    .pairs = false,
    .pack_rows = portable::pack_float_rows,
    .pack_columns = portable::pack_columns,
    .pack_panels = portable::pack_float_panels,
    .gemm = portable::gemm_float,
    .weigh = portable::weigh_float,
    .sum_weights = portable::sum_weights,
    .max_exponent = portable::max_exponent,
    .update_lse = portable::update_lse,
    .attend = portable::attend_float,
    .attend_gradients = portable::attend_gradients,
};

const TileKernels& float_kernels(CpuLevel level) {
#ifdef SPARSECSE_X86
  if (level >= CpuLevel::avx512) return tile_avx512;
  if (level >= CpuLevel::avx2) return tile_avx2;
#endif
  (void)level;
  return tile_portable;
}

const TileKernels& bf16_kernels(CpuLevel level) {
#ifdef SPARSECSE_X86
  if (level >= CpuLevel::amx) return tile_amx;
  if (level >= CpuLevel::avx512bf16) return tile_avx512bf16;
#endif
  return float_kernels(level);
}

}  // namespace sparsecse
