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
