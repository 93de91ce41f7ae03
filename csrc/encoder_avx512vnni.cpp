// The inference encoder's operations in int8 on AVX-512 machines with VNNI but without bf16: values stay floats.
#include "encoder_kernels.h"

#ifdef SPARSECSE_X86
#define SPARSECSE_TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma"
#define SPARSECSE_ISA avx512vnni
#define SPARSECSE_VECTOR_BYTES 64
#include "target_begin.h"
#include "encoder_generic.h"
#include "encoder_int8.h"
#include "target_end.h"

namespace sparsecse {

using namespace avx512vnni;

const EncoderKernels encoder_avx512vnni_int8 = vector_encoder<Int8Dot, Int8Rows<128>, FloatRows, GeluExact>;

}  // namespace sparsecse
#endif
