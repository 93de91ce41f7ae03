// The inference encoder's operations in vectors of any width; included once by each instruction set's file, after
// vector_math.h. What a file can store (floats, bf16, int8) it says in the types that it instantiates the templates
// with.
#include "encoder_kernels.h"
#include "products_generic.h"

namespace sparsecse::SPARSECSE_ISA {

static inline VecF absolute(VecF x) {
  return reinterpret_cast<VecF>(reinterpret_cast<VecU>(x) & 0x7fffffffu);
}

// --- Activations -----------------------------------------------------------------------------------------------------

static inline VecF sigmoid(VecF x) {
  // Past +-80 it is 0 or 1 in floats; the bound keeps exp2 within its range.
  const VecF e = exp2(at_most(at_least(x * -log2_e, splat(-126.0f)), splat(126.0f)));
  return 1.0f / (1.0f + e);
}

// x Phi(x) within 2e-7 of |x|: erfc from its asymptotic shape, a polynomial in 1 / (1 + p |z|) times exp(-z^2)
// (Abramowitz & Stegun, 7.1.26).
static inline VecF gelu_exact(VecF x) {
  constexpr float root_half = 0.70710678f;
  const VecF z = absolute(x) * root_half;
  const VecF t = 1.0f / (1.0f + 0.3275911f * z);
  VecF p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const VecF half_erfc = 0.5f * p * t * exp2(at_least(z * z * -log2_e, splat(-126.0f)));
  // Phi(x) is half_erfc below zero and its complement above.
  const VecF positive = at_least(x, VecF{});
  return positive - absolute(x) * half_erfc;
}

struct Identity {
  static inline VecF apply(VecF x) { return x; }
};
struct GeluExact {
  static inline VecF apply(VecF x) { return gelu_exact(x); }
};
struct GeluTanh {
  // tanh written as a sigmoid of twice its argument.
  static inline VecF apply(VecF x) { return x * sigmoid(x * (1.5957691f + 0.0713548f * x * x)); }
};
struct Relu {
  static inline VecF apply(VecF x) { return at_least(x, VecF{}); }
};
struct Silu {
  static inline VecF apply(VecF x) { return x * sigmoid(x); }
};

// --- Values and operands ---------------------------------------------------------------------------------------------

// Values as floats; also operands as floats.
struct FloatRows {
  static constexpr bool scaled = false;
  static constexpr int bytes = 4;
  static inline void put(void* row, int column, VecF v) { store(static_cast<float*>(row) + column, v); }
  static inline VecF get(const void* row, int column) { return load(static_cast<const float*>(row) + column); }
  // Writes a row of hidden states as an operand, vector by vector as LayerNorm finishes them.
  struct Writer {
    void* row;
    Writer(const Norm&, const float*, const OperandRows& out, int i) : row(out.words + i * out.lda) {}
    inline void put(int column, VecF v) { FloatRows::put(row, column, v); }
    inline void finish() {}
  };
};

template <bool Scaled>
static inline VecF dequantised(const Products& p, int row, int column) {
  const float* c = p.c + column / panel_width * p.c_panel + row * panel_width + column % panel_width;
  if constexpr (Scaled) {
    const VecI dots = *reinterpret_cast<const VecIUnaligned*>(c) +
                      *reinterpret_cast<const VecIUnaligned*>(p.correction + column);
    const VecF scale = load(p.column_scale + column) * p.row_scale[row];
    return __builtin_convertvector(dots, VecF) * scale + load(p.bias + column);
  } else {
    return load(c) + load(p.bias + column);
  }
}

template <class Values, bool Scaled, class Function>
static void activate_with(const Products& products, int rows, int column, int n, void* out, std::ptrdiff_t row) {
  const Products p = products;
  auto* target = static_cast<char*>(out);
  for (int i = 0; i < rows; i++, target += row)
    for (int j = column; j < column + n; j += lanes)
      Values::put(target, j, Function::apply(dequantised<Scaled>(p, i, j)));
}

template <class Values, bool Scaled, class Gelu>
static void activate(const Products& products, const Activation* activation, int rows, int column, int n, void* out,
                     std::ptrdiff_t row) {
  row *= Values::bytes;
  if (!activation) return activate_with<Values, Scaled, Identity>(products, rows, column, n, out, row);
  switch (*activation) {
    case Activation::gelu: return activate_with<Values, Scaled, Gelu>(products, rows, column, n, out, row);
    case Activation::gelu_tanh: return activate_with<Values, Scaled, GeluTanh>(products, rows, column, n, out, row);
    case Activation::relu: return activate_with<Values, Scaled, Relu>(products, rows, column, n, out, row);
    case Activation::silu: return activate_with<Values, Scaled, Silu>(products, rows, column, n, out, row);
  }
}

template <class Values, class Function>
static void gate_with(const Products& products, int rows, int column, void* out, std::ptrdiff_t row) {
  const Products p = products;
  auto* target = static_cast<char*>(out);
  for (int i = 0; i < rows; i++, target += row)
    for (int j = 0; j < panel_width; j += lanes)
      Values::put(target, column / 2 + j,
                  Function::apply(dequantised<false>(p, i, column + j)) *
                      dequantised<false>(p, i, column + panel_width + j));
}

template <class Values, class Gelu>
static void gate(const Products& products, const Activation& activation, int rows, int column, void* out,
                 std::ptrdiff_t row) {
  row *= Values::bytes;
  switch (activation) {
    case Activation::gelu: return gate_with<Values, Gelu>(products, rows, column, out, row);
    case Activation::gelu_tanh: return gate_with<Values, GeluTanh>(products, rows, column, out, row);
    case Activation::relu: return gate_with<Values, Relu>(products, rows, column, out, row);
    case Activation::silu: return gate_with<Values, Silu>(products, rows, column, out, row);
  }
}

// --- LayerNorm -------------------------------------------------------------------------------------------------------

// Over one row of padded_n floats, zeros after n, whose sum the caller has: in place, unless the operand is all that is
// asked for, and on to the operand.
template <class Operands>
static inline void norm_row(float* row, VecF sum, const Norm& norm, const OperandRows& out, int i) {
  const float mean = horizontal_sum(sum) / static_cast<float>(norm.n);
  VecF squares[2] = {};
  for (int j = 0; j < norm.padded_n; j += 2 * lanes)
    for (int v = 0; v < 2; v++) {
      const VecF centred = load(row + j + v * lanes) - mean;
      squares[v] += centred * centred;
    }
  // The padding's zeros are not part of the row.
  const float total =
      horizontal_sum(squares[0] + squares[1]) - static_cast<float>(norm.padded_n - norm.n) * mean * mean;
  const float inverse = 1.0f / __builtin_sqrtf(total / static_cast<float>(norm.n) + norm.eps);
  typename Operands::Writer writer(norm, row, out, i);
  for (int j = 0; j < norm.padded_n; j += lanes) {
    const VecF v = (load(row + j) - mean) * inverse * load(norm.weight + j) + load(norm.bias + j);
    if (!norm.operand_alone) store(row + j, v);
    writer.put(j, v);
  }
  writer.finish();
}

template <class Operands>
static void embed(const EmbeddingTables& tables, const std::int32_t* ids, const std::int32_t* positions,
                  const Norm& norm, int first, int last, float* hidden, const OperandRows& out) {
  const long n = norm.n;
  for (int i = first; i < last; i++) {
    float* row = hidden + static_cast<long>(i) * norm.padded_n;
    const float* word = tables.word + ids[i] * n;
    const float* position = tables.position ? tables.position + positions[i] * n : nullptr;
    if (i + 1 < last) {
      // The next word's row comes from anywhere in the table.
      const float* next = tables.word + ids[i + 1] * n;
      for (long j = 0; j < n; j += 16) __builtin_prefetch(next + j);
    }
    for (long j = 0; j < n; j++) row[j] = word[j];
    if (tables.type)
      for (long j = 0; j < n; j++) row[j] += tables.type[j];
    if (position)
      for (long j = 0; j < n; j++) row[j] += position[j];
    for (long j = n; j < norm.padded_n; j++) row[j] = 0.0f;
    VecF sum = {};
    for (int j = 0; j < norm.padded_n; j += lanes) sum += load(row + j);
    norm_row<Operands>(row, sum, norm, out, i);
  }
}

template <class Operands>
static void add_norm(const Products& products, const Norm& norm, int first, int last, float* hidden,
                     const OperandRows& out) {
  const Products p = products;
  for (int i = first; i < last; i++) {
    float* row = hidden + static_cast<long>(i) * norm.padded_n;
    VecF sum = {};
    for (int j = 0; j < norm.padded_n; j += lanes) {
      const VecF v = load(row + j) + (p.c ? dequantised<Operands::scaled>(p, i, j) : load(p.bias + j));
      store(row + j, v);
      sum += v;
    }
    norm_row<Operands>(row, sum, norm, out, i);
  }
}

static inline void nothing() {}

template <class Dot>
static void multiply_weights(const Word* a, std::ptrdiff_t lda, const Word* b, int kw, float* c, std::ptrdiff_t c_panel,
                             int m, int panels, bool accumulate, const Word* next) {
  multiply_panels<Dot, false>(a, lda, b, kw, c, panel_width, c_panel, m, panels, accumulate, next);
}

}  // namespace sparsecse::SPARSECSE_ISA
