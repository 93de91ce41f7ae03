// What the binding files of the Python module share: array types and checks.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <stdexcept>

#include "cpu.h"

namespace sparsecse::bindings {

namespace nb = nanobind;
using namespace nb::literals;

using Vectors = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Whether an array holds bf16; raises where it holds neither that nor float32.
template <class Array>
bool is_bf16(const Array& x) {
  const nb::dlpack::dtype type = x.dtype();
  if (type == nb::dtype<float>()) return false;
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) && type.bits == 16) return true;
  throw std::invalid_argument("expected float32 or bfloat16");
}

// Never above what this machine has, whatever the caller asks.
inline CpuLevel checked_level(int level) {
  const int best = static_cast<int>(best_cpu_level());
  require(0 <= level && level <= best, "no such CPU level on this machine");
  return static_cast<CpuLevel>(level);
}

void bind_pairwise(nb::module_& m);
void bind_attention(nb::module_& m);
void bind_encoder(nb::module_& m);

}  // namespace sparsecse::bindings
