// The inference encoder's operations in AVX2 and FMA, in floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx2,fma"
#define SPARSECSE_ISA avx2
#define SPARSECSE_VECTOR_BYTES 32
#include "target_begin.h"
#include "encoder_generic.h"
#include "target_end.h"

namespace sparsecse {

using namespace avx2;

const EncoderKernels encoder_avx2 = vector_encoder<FloatDot, FloatRows, FloatRows, GeluExact>;

}  // namespace sparsecse
#endif
