// The inference encoder's operations in AVX-512, in floats.
#include "encoder_kernels.h"

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
#include "vector_math.h"
#include "encoder_generic.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsecse {

const EncoderKernels encoder_avx512 = {
    false,
    1,
    128,
    1,
    0,
    avx512::nothing,
    avx512::nothing,
    avx512::multiply_panels<avx512::FloatDot>,
    avx512::embed<avx512::FloatRows>,
    avx512::activate<avx512::FloatRows, false, avx512::GeluExact>,
    avx512::add_norm<avx512::FloatRows>,
    nullptr,
};

}  // namespace sparsecse
#endif
