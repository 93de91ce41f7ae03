// The inference encoder's operations in int8 on AVX-512 machines with VNNI but without bf16: values stay floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma"))), \
                             apply_to = function)
#else
// GCC 12 takes the undefined operands inside its own intrinsics for mistakes of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#endif
#define SPARSECSE_ISA avx512vnni
#define SPARSECSE_VECTOR_BYTES 64
#include "vector_math.h"
#include "encoder_generic.h"
#include "encoder_int8.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace sparsecse {

const EncoderKernels encoder_avx512vnni_int8 = {
    false,
    4,
    128,
    1,
    128,
    avx512vnni::nothing,
    avx512vnni::nothing,
    avx512vnni::multiply_panels<avx512vnni::Int8Dot>,
    avx512vnni::embed<avx512vnni::Int8Rows<128>>,
    avx512vnni::activate<avx512vnni::FloatRows, true, avx512vnni::GeluExact>,
    avx512vnni::add_norm<avx512vnni::Int8Rows<128>>,
    avx512vnni::quantise<128, avx512vnni::FloatRows>,
};

}  // namespace sparsecse
#endif
