// Blocks of vectors in the packed layouts of tile_kernels.h, and aligned scratch memory for them.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "tile_kernels.h"

namespace sparsecse {

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};

// Uninitialised memory on a cache-line boundary.
template <class T>
using Scratch = std::unique_ptr<T[], FreeAligned>;

template <class T>
Scratch<T> make_scratch(long count) {
  void* p = std::aligned_alloc(64, static_cast<std::size_t>(round_up(count * static_cast<long>(sizeof(T)) + 1, 64)));
  if (!p) throw std::bad_alloc();
  return Scratch<T>(static_cast<T*>(p));
}

// What the pairwise kernels know about one set of vectors.
struct VectorSet {
  Source source;
  long n;
  int block;     // vectors in a block, a multiple of 32
  int padded_d;  // a multiple of 32

  long blocks() const { return (n + block - 1) / block; }
  int valid(long b) const { return static_cast<int>(b + 1 < blocks() ? block : n - b * block); }
  int padded(long b) const { return static_cast<int>(round_up(valid(b), panel_width)); }
  long padded_n() const { return round_up(n, panel_width); }
};

// One block in all three layouts; `kw` and `nw` of tile_kernels.h.
struct PackedBlock {
  const Word* rows = nullptr;
  Scratch<Word> row_copy, columns, panels;
  int n = 0, kw = 0, nw = 0;

  explicit PackedBlock(const VectorSet& set)
      : row_copy(make_scratch<Word>(static_cast<long>(set.block) * set.padded_d)),
        columns(make_scratch<Word>(static_cast<long>(set.block) * set.padded_d)),
        panels(make_scratch<Word>(static_cast<long>(set.block) * set.padded_d)) {}

  void pack(const TileKernels& kernels, const VectorSet& set, long b, bool as_left, bool with_panels) {
    n = set.padded(b);
    kw = kernels.pairs ? set.padded_d / 2 : set.padded_d;
    nw = kernels.pairs ? n / 2 : n;
    const long first = b * set.block;
    if (kernels.pairs && set.source.d == set.padded_d && n == set.valid(b)) {
      // bf16 without padding is in the right layout where it lies.
      rows = static_cast<const Word*>(set.source.data) + first * kw;
    } else {
      kernels.pack_rows(set.source, first, set.valid(b), n, set.padded_d, row_copy.get());
      rows = row_copy.get();
    }
    if (!as_left) kernels.pack_columns(rows, n, kw, columns.get());
    if (with_panels) kernels.pack_panels(rows, n, set.padded_d, panels.get());
  }
};

// The weights between two blocks, as the kernels write them. Rows are padded so that reading a column does not hit
// the same few cache sets.
struct WeightBlock {
  static constexpr int padding = 16;
  Scratch<float> dots;
  Scratch<Word> w, w_transposed;
  std::ptrdiff_t ld, w_ld, wt_ld;
  bool pairs;

  WeightBlock(const TileKernels& kernels, int rows, int columns)
      : dots(make_scratch<float>(static_cast<long>(kernels.pairs ? strip_rows : rows) *
                                 ((kernels.pairs ? strip_columns : columns) + padding))),
        w(make_scratch<Word>(kernels.pairs ? static_cast<long>(rows) * (columns / 2 + padding) : 0)),
        w_transposed(make_scratch<Word>(kernels.pairs ? static_cast<long>(columns) * (rows / 2 + padding) : 0)),
        ld((kernels.pairs ? strip_columns : columns) + padding),
        w_ld(columns / 2 + padding),
        wt_ld(rows / 2 + padding),
        pairs(kernels.pairs) {}

  // The dot products of left vectors i .. i + strip_rows with right vectors j .., and where their weights go.
  WeightStrip strip(const TileKernels& kernels, const PackedBlock& left, const PackedBlock& right, int i, int j) {
    WeightStrip s{};
    s.dots = dots.get() + (pairs ? 0 : i * ld + j);
    s.ld = ld;
    s.n = right.n - j < strip_columns ? right.n - j : strip_columns;
    s.w = w.get() + i * w_ld + j / 2;
    s.w_ld = w_ld;
    s.w_transposed = w_transposed.get() + j * wt_ld + i / 2;
    s.wt_ld = wt_ld;
    kernels.gemm(left.rows + static_cast<long>(i) * left.kw, left.kw, false,
                 right.columns.get() + static_cast<long>(j) * right.kw, left.kw, s.dots, s.ld, panel_width, strip_rows,
                 s.n, false);
    return s;
  }

  // out [left.n, padded_d] += W * right. `out` is in panels, [padded_d / 32, left.n, 32], so that adding to it walks
  // through memory in order.
  void times_right(const TileKernels& kernels, int m, const PackedBlock& right, int padded_d, float* out) const {
    const Word* a = pairs ? w.get() : reinterpret_cast<const Word*>(dots.get());
    kernels.gemm(a, pairs ? w_ld : ld, false, right.panels.get(), right.nw, out, panel_width,
                 static_cast<std::ptrdiff_t>(m) * panel_width, m, padded_d, true);
  }

  // out [right.n, padded_d] += W^T * left, out in panels
  void transposed_times_left(const TileKernels& kernels, int m, const PackedBlock& left, int padded_d,
                             float* out) const {
    const Word* a = pairs ? w_transposed.get() : reinterpret_cast<const Word*>(dots.get());
    kernels.gemm(a, pairs ? wt_ld : ld, !pairs, left.panels.get(), left.nw, out, panel_width,
                 static_cast<std::ptrdiff_t>(m) * panel_width, m, padded_d, true);
  }
};

// Turns one block's sums from panels [padded_d / 32, n, 32] into rows [n, padded_d], in place. temp: as large.
inline void panels_to_rows(float* block, int n, int padded_d, float* temp) {
  std::memcpy(temp, block, sizeof(float) * static_cast<std::size_t>(n) * static_cast<std::size_t>(padded_d));
  for (int i = 0; i < n; i++)
    for (int c = 0; c < padded_d; c += panel_width, block += panel_width)
      std::memcpy(block, temp + static_cast<long>(c) * n + i * panel_width, panel_width * sizeof(float));
}

}  // namespace sparsecse
