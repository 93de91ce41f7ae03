// Queries, keys and values of attention in floats on their way into products, and results on their way out; included
// once by each instruction set's file, by attention_generic.h.
//
// A key's vector is transposed, so that one row of logits is a vector over keys: panels [padded keys / 16, d, 16].
#include "attention_task.h"

namespace sparsecse::SPARSECSE_ISA {

static inline const void* element(const void* data, bool bf16, std::ptrdiff_t i) {
  return bf16 ? static_cast<const void*>(static_cast<const std::uint16_t*>(data) + i)
              : static_cast<const float*>(data) + i;
}

static inline void* element(void* data, bool bf16, std::ptrdiff_t i) {
  return const_cast<void*>(element(static_cast<const void*>(data), bf16, i));
}

// n rows of d elements, `row` apart -> floats [n, padded_d], padded with zeros.
static void copy_rows(const void* data, bool bf16, std::ptrdiff_t row, int n, int d, std::ptrdiff_t padded_d,
                      float* __restrict out) {
  for (int i = 0; i < n; i++, out += padded_d) {
    int k = 0;
    if (bf16) {
      const auto* __restrict in = static_cast<const std::uint16_t*>(data) + i * row;
      for (; k < d; k++) out[k] = bf16_to_float(in[k]);
    } else {
      const auto* __restrict in = static_cast<const float*>(data) + i * row;
      for (; k + lanes <= d; k += lanes) store(out + k, load(in + k));
      for (; k < d; k++) out[k] = in[k];
    }
    for (; k < padded_d; k++) out[k] = 0.0f;
  }
}

// scale[i] * rows [n, padded_d] -> n rows of d elements, `row` apart.
static void write_rows(const float* in, std::ptrdiff_t padded_d, const float* scale, int n, int d, void* data,
                       bool bf16, std::ptrdiff_t row) {
  for (int i = 0; i < n; i++, in += padded_d) {
    if (bf16) {
      auto* __restrict out = static_cast<std::uint16_t*>(data) + i * row;
      for (int k = 0; k < d; k++) out[k] = float_to_bf16(in[k] * scale[i]);
    } else {
      auto* __restrict out = static_cast<float*>(data) + i * row;
      int k = 0;
      for (; k + lanes <= d; k += lanes) store(out + k, load(in + k) * scale[i]);
      for (; k < d; k++) out[k] = in[k] * scale[i];
    }
  }
}

// n rows of d elements, transposed into panels [padded n / 16, padded_d, 16]; `copy` has room for 16 of them as floats.
static void copy_columns(const void* data, bool bf16, std::ptrdiff_t row, int n, int d, std::ptrdiff_t padded_d,
                         float* copy, float* panels) {
  const bool as_they_are = !bf16 && d == padded_d;
  for (int j = 0; j < n; j += attention_tile, panels += padded_d * attention_tile) {
    const int count = n - j < attention_tile ? n - j : attention_tile;
    const float* rows = copy;
    std::ptrdiff_t ld = padded_d;
    if (as_they_are) {
      rows = static_cast<const float*>(data) + j * row;
      ld = row;
    } else {
      copy_rows(element(data, bf16, j * row), bf16, row, count, d, padded_d, copy);
    }
    for (int k = 0; k < padded_d; k += 16) {
      float* out = panels + k * attention_tile;
#if SPARSECSE_VECTOR_BYTES == 64
      transpose_rows(rows + k, ld * 4, count, reinterpret_cast<Word*>(out));
#else
      for (int half = 0; half < 16; half += 8)
        for (int v = 0; v < count; v++)
          for (int c = half; c < half + 8; c++) out[c * attention_tile + v] = rows[v * ld + k + c];
#endif
    }
  }
}

// The right operand of a product inside a head: element (k, j) lies at data[k * row + j / 16 * panel + j % 16].
struct HeadOperand {
  const float* data;
  std::ptrdiff_t row, panel;
};

// Queries as a left operand of products in floats: where they lie, or a copy.
static inline const float* left_rows(const void* data, bool bf16, std::ptrdiff_t row, int n, int d,
                                     std::ptrdiff_t padded_d, float* copy, std::ptrdiff_t& ld) {
  ld = bf16 ? padded_d : row;
  if (!bf16) return static_cast<const float*>(data);
  copy_rows(data, true, row, n, d, padded_d, copy);
  return copy;
}

// Turns m rows [m, padded_d] of tokens first .. by their positions' angles, in place.
static void turn_rows(const AttentionShape& shape, int first, int m, std::ptrdiff_t padded_d, float* rows) {
  const int half = shape.head_size / 2;
  const float* cosines = shape.turns + static_cast<std::ptrdiff_t>(first) * shape.head_size;
  for (int i = 0; i < m; i++, rows += padded_d, cosines += shape.head_size) {
    const float* sines = cosines + half;
    int k = 0;
    for (; k + lanes <= half; k += lanes) {
      const VecF x = load(rows + k), y = load(rows + half + k), c = load(cosines + k), s = load(sines + k);
      store(rows + k, x * c - y * s);
      store(rows + half + k, y * c + x * s);
    }
    for (; k < half; k++) {
      const float x = rows[k], y = rows[half + k];
      rows[k] = x * cosines[k] - y * sines[k];
      rows[half + k] = y * cosines[k] + x * sines[k];
    }
  }
}

// One head's keys and values in the layouts of products, made of those that the queries have come to need: what they
// see of a long text then is in the cache.
class Loaded {
 public:
  Loaded(const AttentionTask& t, const AttentionBuffers& b, int head)
      : t_(t), b_(b), shape_(*t.shape), head_(head), keys_(reinterpret_cast<float*>(b.keys)),
        rows_(reinterpret_cast<float*>(b.rows)),
        // Few rows stay in the cache, far apart.
        copies_values_(shape_.bf16 || shape_.head_size != b.d || t.length > 2 * attention_rows) {
    values_ = copies_values_ ? HeadOperand{reinterpret_cast<const float*>(b.values), b.d, attention_tile}
                             : HeadOperand{static_cast<const float*>(at(t.v, 0)), t.row, attention_tile};
  }

  // Those before `last`, which is the end or a multiple of attention_tile.
  void upto(int last) {
    const int n = last - end_;
    if (n <= 0) return;
    if (copies_values_)
      copy_rows(at(t_.v, end_), shape_.bf16, t_.row, n, shape_.head_size, b_.d,
                reinterpret_cast<float*>(b_.values) + end_ * b_.d);
    if (!shape_.turns)
      copy_columns(at(t_.k, end_), shape_.bf16, t_.row, n, shape_.head_size, b_.d, rows_, keys_ + end_ * b_.d);
    else
      for (int i = end_; i < last; i += attention_rows) {
        const int m = last - i < attention_rows ? last - i : attention_rows;
        copy_columns(turned(t_.k, i, m), false, b_.d, m, static_cast<int>(b_.d), b_.d, nullptr, keys_ + i * b_.d);
      }
    end_ = last;
  }

  // Keys and values from `first` on, a multiple of attention_tile.
  HeadOperand keys(int first) const { return {keys_ + first * b_.d, attention_tile, b_.d * attention_tile}; }
  HeadOperand values(int first) const { return {values_.data + first * values_.row, values_.row, values_.panel}; }

  // m queries from i on; the next call of anything here may overwrite them.
  const float* queries(int i, int m, std::ptrdiff_t& ld) const {
    ld = b_.d;
    if (shape_.turns) return turned(t_.q, i, m);
    return left_rows(at(t_.q, i), shape_.bf16, t_.row, m, shape_.head_size, b_.d, rows_, ld);
  }

 private:
  const void* at(const void* data, int i) const {
    return element(data, shape_.bf16, i * t_.row + static_cast<std::ptrdiff_t>(head_) * shape_.head_size);
  }

  const float* turned(const void* data, int i, int m) const {
    copy_rows(at(data, i), shape_.bf16, t_.row, m, shape_.head_size, b_.d, rows_);
    turn_rows(shape_, i, m, b_.d, rows_);
    return rows_;
  }

  const AttentionTask& t_;
  const AttentionBuffers& b_;
  const AttentionShape& shape_;
  int head_, end_ = 0;
  float *keys_, *rows_;
  bool copies_values_;
  HeadOperand values_;
};

}  // namespace sparsecse::SPARSECSE_ISA
