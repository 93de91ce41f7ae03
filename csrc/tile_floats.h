// The table of block operations in floats; included once by each instruction set's file that has them.
#include "vector_math.h"
#include "tile_generic.h"
#include "attention_generic.h"

namespace sparsecse::SPARSECSE_ISA {

static constexpr TileKernels tile_floats = {
    .pairs = false,
    .pack_rows = pack_float_rows,
    .pack_columns = pack_columns,
    .pack_panels = pack_float_panels,
    .gemm = gemm_float,
    .weigh = weigh_float,
    .sum_weights = sum_weights,
    .max_exponent = max_exponent,
    .update_lse = update_lse,
    .attend = attend_float,
    .attend_gradients = attend_gradients,
};

}  // namespace sparsecse::SPARSECSE_ISA
