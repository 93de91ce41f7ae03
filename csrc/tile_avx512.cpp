// Block operations for AVX-512, in floats.
#include "attention_task.h"
#include "tile_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,fma"
#define SPARSECSE_ISA avx512
#define SPARSECSE_VECTOR_BYTES 64
#define SPARSECSE_OWN_PACK_COLUMNS
#include "target_begin.h"
#include "transpose_avx512.h"
#include "tile_floats.h"
#include "target_end.h"

namespace sparsecse {

const TileKernels tile_avx512 = avx512::tile_floats;

}  // namespace sparsecse
#endif
