// Block operations for AVX2 and FMA.
#include "attention_task.h"
#include "tile_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx2,fma"
#define SPARSECSE_ISA avx2
#define SPARSECSE_VECTOR_BYTES 32
#include "target_begin.h"
#include "tile_floats.h"
#include "target_end.h"

namespace sparsecse {

const TileKernels tile_avx2 = avx2::tile_floats;

}  // namespace sparsecse
#endif
