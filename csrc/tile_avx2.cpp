// Block operations for AVX2 and FMA.
#include "attention_task.h"
#include "tile_kernels.h"

#ifdef SPARSECSE_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SPARSECSE_ISA avx2
#define SPARSECSE_VECTOR_BYTES 32
#include "vector_math.h"
#include "tile_generic.h"
#include "attention_generic.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsecse {

const TileKernels tile_avx2 = {
    false,
    avx2::pack_float_rows,
    avx2::pack_columns,
    avx2::pack_float_panels,
    avx2::gemm_float,
    avx2::weigh_float,
    avx2::sum_weights,
    avx2::max_exponent,
    avx2::update_lse,
    avx2::attend_float,
    avx2::attend_gradients,
};

}  // namespace sparsecse
#endif
