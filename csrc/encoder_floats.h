// The table of the inference encoder's operations in floats; included once by each instruction set's file that has them.
#include "vector_math.h"
#include "encoder_generic.h"

namespace sparsecse::SPARSECSE_ISA {

static constexpr EncoderKernels encoder_floats = {
    .bf16_values = false,
    .word_elements = 1,
    .k_block = 128,
    .row_multiple = 1,
    .int8_zero = 0,
    .enter = nothing,
    .leave = nothing,
    .gemm = multiply_weights<FloatDot>,
    .embed = embed<FloatRows>,
    .activate = activate<FloatRows, false, GeluExact>,
    .gate = gate<FloatRows, GeluExact>,
    .add_norm = add_norm<FloatRows>,
    .quantise = nullptr,
};

}  // namespace sparsecse::SPARSECSE_ISA
