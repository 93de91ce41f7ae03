// Which instruction sets this machine has, as an ordered level that kernels are chosen by.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define SPARSECSE_X86 1
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace sparsecse {

// Every level includes those before it. Callers pass the level along: nothing here is global state.
enum class CpuLevel : int { portable, avx2, avx512, avx512vnni, avx512bf16, amx };

inline constexpr const char* cpu_level_names[] = {"portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"};

#ifdef SPARSECSE_X86
// Linux gives a process the 8 KB of tile registers only when it asks; the answer also tells whether the kernel can
// save them at all. Asking again is harmless, and threads started later inherit the permission.
inline bool request_amx_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long arch_req_xcomp_perm = 0x1023, xfeature_xtiledata = 18;
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, xfeature_xtiledata) == 0;
#else
  return false;
#endif
}
#endif

inline CpuLevel best_cpu_level() {
#ifdef SPARSECSE_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuLevel::portable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return CpuLevel::avx2;
  if (!__builtin_cpu_supports("avx512vnni")) return CpuLevel::avx512;
  if (!__builtin_cpu_supports("avx512bf16")) return CpuLevel::avx512vnni;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
  constexpr unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tiles, int8
  if ((edx & amx) == amx && request_amx_tiles()) return CpuLevel::amx;
  return CpuLevel::avx512bf16;
#else
  return CpuLevel::portable;
#endif
}

}  // namespace sparsecse
