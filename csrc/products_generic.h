// Products with matrices packed in panels of 32 columns, in vectors of any width and for every kind of word; included
// once by each instruction set's file, after vector_math.h. Products inside one head of attention, whose results lie in
// rows, are in attention_generic.h.
#include "tile_kernels.h"

namespace sparsecse::SPARSECSE_ISA {

using VecI = std::int32_t __attribute__((vector_size(SPARSECSE_VECTOR_BYTES)));
using VecIUnaligned = std::int32_t __attribute__((vector_size(SPARSECSE_VECTOR_BYTES), aligned(4), may_alias));

// How words are multiplied: the type of the sums, and one step of them.
struct FloatDot {
  using Sum = VecF;
  using Stored = VecFUnaligned;
  using Operand = VecF;
  static inline Operand broadcast(Word word) {
    float value;
    __builtin_memcpy(&value, &word, 4);
    return splat(value);
  }
  static inline Operand read(const Word* words) { return load(reinterpret_cast<const float*>(words)); }
  static inline Sum add(Sum sum, Operand a, Operand b) { return sum + a * b; }
};

// Columns per step: with 32 registers four vectors, with 16 two; and rows per step, as many as the rest can hold.
constexpr int step_vectors = SPARSECSE_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int step_columns = step_vectors * lanes;
constexpr int step_rows = 6;

// Where vector v of a step lies in panels that are `panel` apart.
static constexpr std::ptrdiff_t panel_offset(int v, std::ptrdiff_t panel) {
  return v * lanes / panel_width * panel + v * lanes % panel_width;
}

template <class Dot, bool Transposed, int Rows, int Vectors>
static inline void multiply_panel_step(const Word* a, std::ptrdiff_t lda, const Word* b, std::ptrdiff_t b_panel, int kw,
                                       float* c, std::ptrdiff_t ldc, std::ptrdiff_t c_panel, bool accumulate,
                                       const Word* ahead) {
  typename Dot::Sum sums[Rows][Vectors] = {};
  for (int k = 0; k < kw; k++, b += panel_width) {
    typename Dot::Operand columns[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) columns[v] = Dot::read(b + panel_offset(v, b_panel));
    if (ahead) __builtin_prefetch(ahead + 16 * k, 0, 2);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      const typename Dot::Operand row = Dot::broadcast(Transposed ? a[k * lda + i] : a[i * lda + k]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) sums[i][v] = Dot::add(sums[i][v], row, columns[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      auto* p = reinterpret_cast<typename Dot::Stored*>(c + i * ldc + panel_offset(v, c_panel));
      *p = accumulate ? *p + sums[i][v] : sums[i][v];
    }
}

// Memory to be read soon, asked for little by little: one line for each step along k of each call.
struct Ahead {
  const Word* position;
  const Word* end;

  const Word* take(int kw) {
    const Word* mine = position;
    if (position) position = position + 16 * kw < end ? position + 16 * kw : nullptr;
    return mine;
  }
};

template <int N>
struct Count {
  static constexpr int value = N;
};

template <class Dot, bool Transposed, int Vectors>
static inline void multiply_panel_columns(const Word* a, std::ptrdiff_t lda, const Word* b, std::ptrdiff_t b_panel,
                                          int kw, float* c, std::ptrdiff_t ldc, std::ptrdiff_t c_panel, int m,
                                          bool accumulate, Ahead& ahead) {
  const auto step = [&](auto rows, int i) {
    multiply_panel_step<Dot, Transposed, decltype(rows)::value, Vectors>(
        a + i * (Transposed ? 1 : lda), lda, b, b_panel, kw, c + i * ldc, ldc, c_panel, accumulate, ahead.take(kw));
  };
  int i = 0;
  for (; i + step_rows <= m; i += step_rows) step(Count<step_rows>{}, i);
  switch (m - i) {
    case 5: return step(Count<5>{}, i);
    case 4: return step(Count<4>{}, i);
    case 3: return step(Count<3>{}, i);
    case 2: return step(Count<2>{}, i);
    case 1: return step(Count<1>{}, i);
    default: return;
  }
}

// c = (or +=, with accumulate) a [m, kw] * b [panels, kw, 32], in panels of 32 columns: element (i, j) lies at
// c[j / 32 * c_panel + i * ldc + j % 32]. With Transposed, a is [kw, lda], read by columns. `next`, or null: memory to
// ask for meanwhile, as much as b.
template <class Dot, bool Transposed>
static void multiply_panels(const Word* a, std::ptrdiff_t lda, const Word* b, int kw, float* c, std::ptrdiff_t ldc,
                            std::ptrdiff_t c_panel, int m, int panels, bool accumulate, const Word* next) {
  // Words of K whose part of b stays in the L1 cache for all rows.
  constexpr int k_block = 128;
  const std::ptrdiff_t b_panel = static_cast<std::ptrdiff_t>(kw) * panel_width;
  const int columns = panels * panel_width;
  Ahead ahead{next, next ? next + panels * b_panel : nullptr};
  const auto blocks = [&](auto vectors, int j) {
    const int panel = j / panel_width, within = j % panel_width;
    for (int k = 0; k < kw; k += k_block)
      multiply_panel_columns<Dot, Transposed, decltype(vectors)::value>(
          a + k * (Transposed ? lda : 1), lda, b + panel * b_panel + k * panel_width + within, b_panel,
          kw - k < k_block ? kw - k : k_block, c + panel * c_panel + within, ldc, c_panel, m, accumulate || k > 0,
          ahead);
  };
  int j = 0;
  for (; j + step_columns <= columns; j += step_columns) blocks(Count<step_vectors>{}, j);
  // Where a step is two panels wide there may be one left.
  if constexpr (step_columns > panel_width)
    if (j < columns) blocks(Count<step_vectors / 2>{}, j);
}

}  // namespace sparsecse::SPARSECSE_ISA
