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
#include "vector_math.h"
#include "tile_generic.h"
#include "attention_generic.h"
#include "target_end.h"

namespace sparsecse {

const TileKernels tile_avx512 = {
    .pairs = false,
    .pack_rows = avx512::pack_float_rows,
    .pack_columns = avx512::pack_columns,
    .pack_panels = avx512::pack_float_panels,
    .gemm = avx512::gemm_float,
    .weigh = avx512::weigh_float,
    .sum_weights = avx512::sum_weights,
    .max_exponent = avx512::max_exponent,
    .update_lse = avx512::update_lse,
    .attend = avx512::attend_float,
    .attend_gradients = avx512::attend_gradients,
};

}  // namespace sparsecse
#endif
