// The Python module sparsecse._native.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.doc() = "CPU kernels of sparsecse; sparsecse.kernels and sparsecse.runtime are the interface to them.";

  m.def("cpu_level_names", [] {
    return std::vector<std::string>(std::begin(sparsecse::cpu_level_names), std::end(sparsecse::cpu_level_names));
  });
  m.def("best_cpu_level", [] { return static_cast<int>(sparsecse::best_cpu_level()); });

  sparsecse::bindings::bind_pairwise(m);
  sparsecse::bindings::bind_attention(m);
  sparsecse::bindings::bind_encoder(m);
}
