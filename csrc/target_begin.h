// Selects an instruction set for the functions from here to target_end.h. A file includes every header that is not of
// one instruction set before this, and defines
//   SPARSECSE_TARGET         what the compilers call the instruction set, as a string
//   SPARSECSE_ISA            the namespace of what is compiled for it
//   SPARSECSE_VECTOR_BYTES   16, 32 or 64
#if SPARSECSE_VECTOR_BYTES == 64
#include <immintrin.h>
#endif

#define SPARSECSE_PRAGMA_TEXT(...) _Pragma(#__VA_ARGS__)
#define SPARSECSE_PRAGMA(...) SPARSECSE_PRAGMA_TEXT(__VA_ARGS__)
#if defined(__clang__)
SPARSECSE_PRAGMA(clang attribute push(__attribute__((target(SPARSECSE_TARGET))), apply_to = function))
#else
// GCC 12 takes the undefined operands inside its own intrinsics for mistakes of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
SPARSECSE_PRAGMA(GCC target(SPARSECSE_TARGET))
#endif
