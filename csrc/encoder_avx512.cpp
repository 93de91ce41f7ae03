// The inference encoder's operations in AVX-512, in floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,fma"
#define SPARSECSE_ISA avx512
#define SPARSECSE_VECTOR_BYTES 64
#include "target_begin.h"
#include "encoder_floats.h"
#include "target_end.h"

namespace sparsecse {

const EncoderKernels encoder_avx512 = avx512::encoder_floats;

}  // namespace sparsecse
#endif
