// Back to the instruction set that target_begin.h found.
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
