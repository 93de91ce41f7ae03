// Block operations in 16-byte vectors, which every 64-bit CPU has (SSE2, NEON), and the choice among all of them.
#include "attention_task.h"

#define SPARSECSE_ISA portable
#define SPARSECSE_VECTOR_BYTES 16
#include "tile_floats.h"

namespace sparsecse {

const TileKernels tile_portable = portable::tile_floats;

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
