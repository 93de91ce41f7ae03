// Block operations for AVX-512, in floats.
#include "attention_task.h"
#include "tile_kernels.h"

#ifdef SPARSECSE_X86
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), apply_to = function)
#else
// GCC 12 takes the undefined operands inside its own intrinsics for mistakes of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif
#define SPARSECSE_ISA avx512
#define SPARSECSE_VECTOR_BYTES 64
#define SPARSECSE_OWN_PACK_COLUMNS
#include "transpose_avx512.h"
#include "vector_math.h"
#include "tile_generic.h"
#include "attention_generic.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsecse {

const TileKernels tile_avx512 = {
    false,
    avx512::pack_float_rows,
    avx512::pack_columns,
    avx512::pack_float_panels,
    avx512::gemm_float,
    avx512::weigh_float,
    avx512::sum_weights,
    avx512::max_exponent,
    avx512::update_lse,
    avx512::attend_float,
    avx512::attend_gradients,
};

}  // namespace sparsecse
#endif
