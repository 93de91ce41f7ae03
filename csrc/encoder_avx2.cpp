// The inference encoder's operations in AVX2 and FMA, in floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx2,fma"
#define SPARSECSE_ISA avx2
#define SPARSECSE_VECTOR_BYTES 32
#include "target_begin.h"
#include "vector_math.h"
#include "encoder_generic.h"
#include "target_end.h"

namespace sparsecse {

const EncoderKernels encoder_avx2 = {
    .bf16_values = false,
    .word_elements = 1,
    .k_block = 128,
    .row_multiple = 1,
    .int8_zero = 0,
    .enter = avx2::nothing,
    .leave = avx2::nothing,
    .gemm = avx2::multiply_panels<avx2::FloatDot>,
    .embed = avx2::embed<avx2::FloatRows>,
    .activate = avx2::activate<avx2::FloatRows, false, avx2::GeluExact>,
    .add_norm = avx2::add_norm<avx2::FloatRows>,
    .quantise = nullptr,
};

}  // namespace sparsecse
#endif
