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
    false,
    1,
    128,
    1,
    0,
    avx2::nothing,
    avx2::nothing,
    avx2::multiply_panels<avx2::FloatDot>,
    avx2::embed<avx2::FloatRows>,
    avx2::activate<avx2::FloatRows, false, avx2::GeluExact>,
    avx2::add_norm<avx2::FloatRows>,
    nullptr,
};

}  // namespace sparsecse
#endif
