// The inference encoder's operations in 16-byte vectors, which every 64-bit CPU has (SSE2, NEON), and the choice among all of them.
#include "encoder_kernels.h"

#define SPARSECSE_ISA portable
#define SPARSECSE_VECTOR_BYTES 16
#include "encoder_floats.h"

namespace sparsecse {

const EncoderKernels encoder_portable = portable::encoder_floats;

const EncoderKernels* encoder_kernels(Precision precision, CpuLevel level) {
#ifdef SPARSECSE_X86
  if (precision == Precision::int8) {
    if (level >= CpuLevel::amx) return &encoder_amx_int8;
    if (level >= CpuLevel::avx512bf16) return &encoder_avx512bf16_int8;
    return level >= CpuLevel::avx512vnni ? &encoder_avx512vnni_int8 : nullptr;
  }
  if (precision == Precision::bfloat16) {
    if (level >= CpuLevel::amx) return &encoder_amx;
    return level >= CpuLevel::avx512bf16 ? &encoder_avx512bf16 : nullptr;
  }
  if (level >= CpuLevel::avx512) return &encoder_avx512;
  if (level >= CpuLevel::avx2) return &encoder_avx2;
#endif
  (void)level;
  return precision == Precision::float32 ? &encoder_portable : nullptr;
}

}  // namespace sparsecse
