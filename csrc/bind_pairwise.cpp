// Python bindings of the pairwise kernels: checks shapes and dtypes, releases the GIL, calls them.
#include "bindings.h"
#include "pairwise.h"
#include "tile_kernels.h"

namespace sparsecse::bindings {
namespace {

void require_gradient(const Matrix& grad, const Vectors& x) {
  const auto padded = [](std::size_t n) {
    return static_cast<std::size_t>(round_up(static_cast<long>(n), panel_width));
  };
  require(grad.shape(0) == padded(x.shape(0)) && grad.shape(1) == padded(x.shape(1)),
          "the gradient must have both dimensions rounded up to 32");
}

}  // namespace

void bind_pairwise(nb::module_& m) {
  m.def(
      "uniformity",
      [](const Vectors& x, double t, std::optional<Matrix> grad, int threads, int level) {
        require(x.shape(0) >= 2 && x.shape(1) >= 1 && threads >= 1, "expected two vectors or more and a thread");
        if (grad) require_gradient(*grad, x);
        const bool bf16 = is_bf16(x);
        const auto cpu = checked_level(level);
        nb::gil_scoped_release release;
        return uniformity(x.data(), bf16, static_cast<long>(x.shape(0)), static_cast<long>(x.shape(1)), t,
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
        row_logsumexp(a.data(), b.data(), bf16, static_cast<long>(a.shape(0)),
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
        row_logsumexp_grad(a.data(), b.data(), bf16, static_cast<long>(a.shape(0)),
                                      static_cast<long>(b.shape(0)), static_cast<long>(a.shape(1)), scale, lse.data(),
                                      upstream.data(), grad_a.data(), grad_b.data(), threads, cpu);
      },
      "a"_a, "b"_a, "scale"_a, "lse"_a, "upstream"_a, "grad_a"_a, "grad_b"_a, "threads"_a, "level"_a);
}

}  // namespace sparsecse::bindings
