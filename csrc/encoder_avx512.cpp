// The inference encoder's operations in AVX-512, in floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,fma"
#define SPARSECSE_ISA avx512
#define SPARSECSE_VECTOR_BYTES 64
#include "target_begin.h"
#include "vector_math.h"
#include "encoder_generic.h"
#include "target_end.h"

namespace sparsecse {

const EncoderKernels encoder_avx512 = {
    .bf16_values = false,
    .word_elements = 1,
    .k_block = 128,
    .row_multiple = 1,
    .int8_zero = 0,
    .enter = avx512::nothing,
    .leave = avx512::nothing,
    .gemm = avx512::multiply_panels<avx512::FloatDot>,
    .embed = avx512::embed<avx512::FloatRows>,
    .activate = avx512::activate<avx512::FloatRows, false, avx512::GeluExact>,
    .add_norm = avx512::add_norm<avx512::FloatRows>,
    .quantise = nullptr,
};

}  // namespace sparsecse
#endif
