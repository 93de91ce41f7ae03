// The inference encoder's operations in int8 on AVX-512 machines with VNNI but without bf16: values stay floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma"
#define SPARSECSE_ISA avx512vnni
#define SPARSECSE_VECTOR_BYTES 64
#include "target_begin.h"
#include "vector_math.h"
#include "encoder_generic.h"
#include "encoder_int8.h"
#include "target_end.h"

namespace sparsecse {

const EncoderKernels encoder_avx512vnni_int8 = {
    .bf16_values = false,
    .word_elements = 4,
    .k_block = 128,
    .row_multiple = 1,
    .int8_zero = 128,
    .enter = avx512vnni::nothing,
    .leave = avx512vnni::nothing,
    .gemm = avx512vnni::multiply_weights<avx512vnni::Int8Dot>,
    .embed = avx512vnni::embed<avx512vnni::Int8Rows<128>>,
    .activate = avx512vnni::activate<avx512vnni::FloatRows, true, avx512vnni::GeluExact>,
    .gate = nullptr,
    .add_norm = avx512vnni::add_norm<avx512vnni::Int8Rows<128>>,
    .quantise = avx512vnni::quantise<128, avx512vnni::FloatRows>,
};

}  // namespace sparsecse
#endif
