// The inference encoder's operations in AVX2 and FMA, in floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx2,fma"
#define SPARSECSE_ISA avx2
#define SPARSECSE_VECTOR_BYTES 32
#include "target_begin.h"
#include "encoder_floats.h"
#include "target_end.h"

namespace sparsecse {

const EncoderKernels encoder_avx2 = avx2::encoder_floats;

}  // namespace sparsecse
#endif
