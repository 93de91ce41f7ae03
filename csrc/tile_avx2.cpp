// Block operations for AVX2 and FMA.
#include "attention_task.h"
#include "tile_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx2,fma"
#define SPARSECSE_ISA avx2
#define SPARSECSE_VECTOR_BYTES 32
#include "target_begin.h"
#include "vector_math.h"
#include "tile_generic.h"
#include "attention_generic.h"
#include "target_end.h"

namespace sparsecse {

const TileKernels tile_avx2 = {
    .pairs = false,
    .pack_rows = avx2::pack_float_rows,
    .pack_columns = avx2::pack_columns,
    .pack_panels = avx2::pack_float_panels,
    .gemm = avx2::gemm_float,
    .weigh = avx2::weigh_float,
    .sum_weights = avx2::sum_weights,
    .max_exponent = avx2::max_exponent,
    .update_lse = avx2::update_lse,
    .attend = avx2::attend_float,
    .attend_gradients = avx2::attend_gradients,
};

}  // namespace sparsecse
#endif
