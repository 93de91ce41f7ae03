// The Python module sparsecse._native: checks shapes and dtypes, releases the GIL, calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu.h"
#include "pairwise.h"
#include "tile_kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Vectors = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

bool is_bf16(const Vectors& x) {
  const nb::dlpack::dtype type = x.dtype();
  if (type == nb::dtype<float>()) return false;
  if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) && type.bits == 16) return true;
  throw std::invalid_argument("expected float32 or bfloat16");
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

void require_gradient(const Matrix& grad, const Vectors& x) {
  const auto padded = [](std::size_t n) {
    return static_cast<std::size_t>(sparsecse::round_up(static_cast<long>(n), sparsecse::panel_width));
  };
  require(grad.shape(0) == padded(x.shape(0)) && grad.shape(1) == padded(x.shape(1)),
          "the gradient must have both dimensions rounded up to 32");
}

// Never above what this machine has, whatever the caller asks.
sparsecse::CpuLevel checked_level(int level) {
  const int best = static_cast<int>(sparsecse::best_cpu_level());
  require(0 <= level && level <= best, "no such CPU level on this machine");
  return static_cast<sparsecse::CpuLevel>(level);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "CPU kernels of sparsecse; sparsecse.kernels is the interface to them.";

  m.def("cpu_level_names", [] {
    return std::vector<std::string>(std::begin(sparsecse::cpu_level_names), std::end(sparsecse::cpu_level_names));
  });
  m.def("best_cpu_level", [] { return static_cast<int>(sparsecse::best_cpu_level()); });

  m.def(
      "uniformity",
      [](const Vectors& x, double t, std::optional<Matrix> grad, int threads, int level) {
        require(x.shape(0) >= 2 && x.shape(1) >= 1 && threads >= 1, "expected two vectors or more and a thread");
        if (grad) require_gradient(*grad, x);
        const bool bf16 = is_bf16(x);
        const auto cpu = checked_level(level);
        nb::gil_scoped_release release;
        return sparsecse::uniformity(x.data(), bf16, static_cast<long>(x.shape(0)), static_cast<long>(x.shape(1)), t,
                                     grad ? grad->data() : nullptr, threads, cpu);
      },
      "x"_a, "t"_a, "grad"_a.none(), "threads"_a, "level"_a);

  m.def(
      "row_logsumexp",
      [](const Vectors& a, const Vectors& b, double scale, const Floats& lse, int threads, int level) {
        require(a.shape(1) == b.shape(1) && lse.shape(0) == a.shape(0) && b.shape(0) >= 1 && threads >= 1,
                "shapes do not match");
        const bool bf16 = is_bf16(a);
        require(is_bf16(b) == bf16, "dtypes do not match");
        const auto cpu = checked_level(level);
        nb::gil_scoped_release release;
        sparsecse::row_logsumexp(a.data(), b.data(), bf16, static_cast<long>(a.shape(0)),
                                 static_cast<long>(b.shape(0)), static_cast<long>(a.shape(1)), scale, lse.data(),
                                 threads, cpu);
      },
      "a"_a, "b"_a, "scale"_a, "lse"_a, "threads"_a, "level"_a);

  m.def(
      "row_logsumexp_grad",
      [](const Vectors& a, const Vectors& b, double scale, const ConstFloats& lse, const ConstFloats& upstream,
         const Matrix& grad_a, const Matrix& grad_b, int threads, int level) {
        require(a.shape(1) == b.shape(1) && lse.shape(0) == a.shape(0) && upstream.shape(0) == a.shape(0) &&
                    b.shape(0) >= 1 && threads >= 1,
                "shapes do not match");
        require_gradient(grad_a, a);
        require_gradient(grad_b, b);
        const bool bf16 = is_bf16(a);
        require(is_bf16(b) == bf16, "dtypes do not match");
        const auto cpu = checked_level(level);
        nb::gil_scoped_release release;
        sparsecse::row_logsumexp_grad(a.data(), b.data(), bf16, static_cast<long>(a.shape(0)),
                                      static_cast<long>(b.shape(0)), static_cast<long>(a.shape(1)), scale, lse.data(),
                                      upstream.data(), grad_a.data(), grad_b.data(), threads, cpu);
      },
      "a"_a, "b"_a, "scale"_a, "lse"_a, "upstream"_a, "grad_a"_a, "grad_b"_a, "threads"_a, "level"_a);
}
