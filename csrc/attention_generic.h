// Attention in floats, forward and backward, and the softmax that the bf16 kernels share; included once by each
// instruction set's file, like and after tile_generic.h.
#include "attention_loading.h"

namespace sparsecse::SPARSECSE_ISA {

// Rows per step of products inside a head: as many as keep two accumulators each in registers.
constexpr int head_step_rows = SPARSECSE_VECTOR_BYTES == 64 ? 12 : SPARSECSE_VECTOR_BYTES == 32 ? 6 : 4;

template <int MR, int NV, bool Transposed>
static inline void multiply_head_step(const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb,
                                      std::ptrdiff_t b_next, int k, float* c, std::ptrdiff_t ldc, bool accumulate) {
  VecF acc[MR][NV] = {};
  for (int kk = 0; kk < k; kk++, b += ldb) {
    VecF bv[NV];
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) bv[v] = load(b + v * b_next);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      const VecF ai = splat(Transposed ? a[kk * lda + i] : a[i * lda + kk]);
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) acc[i][v] += ai * bv[v];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) {
      float* p = c + i * ldc + v * lanes;
      store(p, accumulate ? load(p) + acc[i][v] : acc[i][v]);
    }
}

template <int MR, int NV, bool Transposed>
static void multiply_head_rows(int rows, const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb,
                               std::ptrdiff_t b_next, int k, float* c, std::ptrdiff_t ldc, bool accumulate) {
  if (rows == MR)
    multiply_head_step<MR, NV, Transposed>(a, lda, b, ldb, b_next, k, c, ldc, accumulate);
  else if constexpr (MR > 1)
    multiply_head_rows<MR - 1, NV, Transposed>(rows, a, lda, b, ldb, b_next, k, c, ldc, accumulate);
}

// c [m, n] = (or +=) a [m, k] * b [k, n], for any m and k and n a multiple of 16. Transposed: a is [k, m].
template <bool Transposed = false>
static void multiply_head(const float* a, std::ptrdiff_t lda, const HeadOperand& b, int m, int n, int k, float* c,
                          std::ptrdiff_t ldc, bool accumulate) {
  // In wide vectors the two of a step come from neighbouring panels.
  constexpr bool wide = lanes == attention_tile;
  const std::ptrdiff_t b_next = wide ? b.panel : lanes, row = Transposed ? 1 : lda;
  for (int j = 0; j < n; j += 2 * lanes) {
    const float* bj = b.data + j / attention_tile * b.panel + j % attention_tile;
    // As few steps as there can be, each of about as many rows: a step of few rows waits for its own sums.
    for (int i = 0, steps = (m + head_step_rows - 1) / head_step_rows; i < m; steps--) {
      const int count = (m - i + steps - 1) / steps;
      if (wide && j + lanes == n)
        multiply_head_rows<head_step_rows, 1, Transposed>(count, a + i * row, lda, bj, b.row, b_next, k,
                                                          c + i * ldc + j, ldc, accumulate);
      else
        multiply_head_rows<head_step_rows, 2, Transposed>(count, a + i * row, lda, bj, b.row, b_next, k,
                                                          c + i * ldc + j, ldc, accumulate);
      i += count;
    }
  }
}

constexpr float log_2 = 0.693147181f;

static inline VecU lane_numbers() {
  VecU numbers;
  for (int v = 0; v < lanes; v++) numbers[v] = static_cast<std::uint32_t>(v);
  return numbers;
}

// x in the first `count` lanes, `other` in the rest.
static inline VecF first_lanes(int count, VecF x, VecF other) {
  return lane_numbers() < static_cast<std::uint32_t>(count) ? x : other;
}

// log2(x) of normal numbers, within 2 ulp of the larger of it and 1; NaN stays NaN. With x = 2^n m and 2/3 <= m < 4/3,
// log2(m) is a series in (m - 1) / (m + 1).
static inline VecF log2(VecF x) {
  const VecU two_thirds = reinterpret_cast<VecU>(splat(0.666666667f));
  const VecU exponent = (reinterpret_cast<VecU>(x) - two_thirds) & 0xff800000u;
  const VecF m = reinterpret_cast<VecF>(reinterpret_cast<VecU>(x) - exponent);
  const VecF n = __builtin_convertvector(reinterpret_cast<VecI>(exponent), VecF) * 0x1p-23f;
  const VecF s = (m - 1.0f) / (m + 1.0f), square = s * s;
  VecF p = splat(0.320598898f);
  p = p * square + 0.412198584f;
  p = p * square + 0.577078016f;
  p = p * square + 0.961796694f;
  p = p * square + 2.88539008f;
  return p * s + n + (x - x);
}

// One row of the dropout mask: what probabilities from column j are multiplied by.
struct MaskRow {
  AttentionDropout dropout;
  std::uint32_t key;
  MaskRow(const AttentionDropout& d, int head, int query)
      : dropout(d), key(mix(mix(d.key ^ static_cast<std::uint32_t>(head)) ^ static_cast<std::uint32_t>(query))) {}
  VecF at(int j) const {
    const VecU h = mix(key ^ (lane_numbers() + static_cast<std::uint32_t>(j)));
    return h >= dropout.threshold ? splat(dropout.kept_scale) : VecF{};
  }
};

// Some rows of logits on their way to weights 2^(exponent - largest of the row), with
//   exponent[i][j] = factor * logits[i][j] + bias[j - i]
struct SoftmaxRows {
  float* logits;  // [rows, ld], ld a multiple of 16 and larger than the length
  std::ptrdiff_t ld;
  int rows, length, head, first_query;
  float factor;
  const float* bias;  // of row 0 and key 0, or null; readable past the last key, as logits are
  AttentionDropout dropout;
};

template <bool Biased>
static inline VecF softmax_exponent(const SoftmaxRows& s, int i, int j) {
  const VecF e = load(s.logits + i * s.ld + j) * s.factor;
  return Biased ? e + load(s.bias + j - i) : e;
}

#if SPARSECSE_VECTOR_BYTES == 64
// No lambdas in templates here and in attention_bf16.h: GCC compiles those, unlike the templates themselves, for the
// instruction set that is selected at the end of the file.
template <bool Largest>
static inline __m512 join(__m512 a, __m512 b) {
  return Largest ? _mm512_max_ps(a, b) : _mm512_add_ps(a, b);
}

// Of each of up to 16 vectors the largest element, or the sum; what lies past them in the last four must be numbers.
template <bool Largest>
static inline __m512 reduce_16(const VecF* v, int count) {
  __m512 quads[4] = {};
  for (int g = 0; g < 4 && 4 * g < count; g++) {
    __m512d pairs[2];
    for (int p = 0; p < 2; p++) {
      const auto a = reinterpret_cast<__m512>(v[4 * g + 2 * p]), b = reinterpret_cast<__m512>(v[4 * g + 2 * p + 1]);
      pairs[p] = _mm512_castps_pd(join<Largest>(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    }
    quads[g] = join<Largest>(_mm512_castpd_ps(_mm512_unpacklo_pd(pairs[0], pairs[1])),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[0], pairs[1])));
  }
  __m512 halves[2];
  for (int h = 0; h < 2; h++)
    halves[h] = join<Largest>(_mm512_shuffle_f32x4(quads[2 * h], quads[2 * h + 1], 0x88),
                              _mm512_shuffle_f32x4(quads[2 * h], quads[2 * h + 1], 0xdd));
  return join<Largest>(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                       _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
}
#endif

// Of each of `rows` of 16 vectors the largest element, or the sum. out: [16].
template <bool Largest>
static inline void reduce_rows(VecF* v, int rows, float* out) {
#if SPARSECSE_VECTOR_BYTES == 64
  for (int i = rows; i % 4; i++) v[i] = VecF{};
  _mm512_storeu_ps(out, reduce_16<Largest>(v, rows));
#else
  for (int i = 0; i < rows; i++) out[i] = Largest ? horizontal_max(v[i]) : horizontal_sum(v[i]);
#endif
}

// top, sum: [attention_rows], of which the rows there are get values. put(i, j, weights, more) gets two vectors of
// weights at a time, with dropout applied and zero past the last key. Pairs: how many a row has, where that is known.
template <bool Biased, bool Dropped, int Pairs, class Put>
static inline void softmax_rows(const SoftmaxRows& rows_in, float* top, float* sum, const Put& put_in) {
  // Copies that nothing else can point to: their fields stay in registers.
  const SoftmaxRows s = rows_in;
  const Put put = put_in;
  constexpr int pair = 2 * lanes;
  const int last = ((Pairs ? Pairs : (s.length + pair - 1) / pair) - 1) * pair, rest = s.length - last;
  const VecF lowest = splat(-__builtin_inff());
  for (int first = 0; first < s.rows; first += 16) {
    const int rows = s.rows - first < 16 ? s.rows - first : 16;
    VecF parts[16];
    for (int r = 0, i = first; r < rows; r++, i++) {
      VecF best = first_lanes(rest, softmax_exponent<Biased>(s, i, last), lowest);
      if (rest > lanes)
        best = larger(first_lanes(rest - lanes, softmax_exponent<Biased>(s, i, last + lanes), lowest), best);
      for (int j = 0; j < last; j += lanes) best = larger(softmax_exponent<Biased>(s, i, j), best);
      parts[r] = best;
    }
    reduce_rows<true>(parts, rows, top + first);
    for (int r = 0, i = first; r < rows; r++, i++) {
      const MaskRow mask(s.dropout, s.head, s.first_query + i);
      const float largest = top[i];
      VecF total = {};
      for (int j = 0; j < last; j += pair) {
        const VecF w = exp2(softmax_exponent<Biased>(s, i, j) - largest);
        const VecF more = exp2(softmax_exponent<Biased>(s, i, j + lanes) - largest);
        total += w + more;
        if (Dropped)
          put(i, j, w * mask.at(j), more * mask.at(j + lanes));
        else
          put(i, j, w, more);
      }
      const VecF w = first_lanes(rest, exp2(softmax_exponent<Biased>(s, i, last) - largest), VecF{});
      VecF more = {};
      if (rest > lanes)
        more = first_lanes(rest - lanes, exp2(softmax_exponent<Biased>(s, i, last + lanes) - largest), VecF{});
      parts[r] = total + (w + more);
      if (Dropped)
        put(i, last, w * mask.at(last), more * mask.at(last + lanes));
      else
        put(i, last, w, more);
      put.end_row(i);
    }
    reduce_rows<false>(parts, rows, sum + first);
  }
}

template <class Put>
static inline void softmax(const SoftmaxRows& s, float* top, float* sum, const Put& put) {
  if (s.dropout.threshold)
    (s.bias ? softmax_rows<true, true, 0, Put> : softmax_rows<false, true, 0, Put>)(s, top, sum, put);
  else if (s.length <= 2 * lanes)
    (s.bias ? softmax_rows<true, false, 1, Put> : softmax_rows<false, false, 1, Put>)(s, top, sum, put);
  else
    (s.bias ? softmax_rows<true, false, 0, Put> : softmax_rows<false, false, 0, Put>)(s, top, sum, put);
}

// A head's bias between positions of this sentence, times log2(e), with zeros around it that vectors may run into.
static void copy_bias(const AttentionShape& shape, int head, int length, float* out) {
  const float* in = shape.bias + head * (2 * shape.reach - 1) + shape.reach - length;
  int k = 0;
  for (; k < 2 * length - 1; k++) out[k] = in[k] * log2_e;
  for (; k < 2 * length + attention_tile; k++) out[k] = 0.0f;
}

// Where, in AttentionBuffers' bias of a span, the distance 0 is: vectors run over its ends by fewer than 64.
static inline int span_centre(int span) { return span + 64; }

// What is added at distances key - query around a span: nothing inside of it, and outside so little that weights are 0.
static void hide_beyond(int span, float* out) {
  constexpr float hidden = -1e30f;
  const int centre = span_centre(span);
  for (int k = 0; k < 2 * centre; k++) out[k] = k > centre - span && k < centre + span ? 0.0f : hidden;
}

static inline SoftmaxRows softmax_of(const AttentionTask& t, const AttentionBuffers& b, int head, int i, int rows) {
  SoftmaxRows s{};
  s.logits = b.logits;
  s.ld = b.logits_ld;
  s.rows = rows;
  s.length = t.length;
  s.head = head;
  s.first_query = i;
  s.factor = t.shape->scale * log2_e;
  s.bias = t.shape->bias ? b.bias + t.length - 1 - i : nullptr;
  s.dropout = t.dropout;
  return s;
}

// Writes the log-sum-exp where it is asked for, and turns the sums into what the output is multiplied by.
static inline void finish_rows(const AttentionTask& t, int head, int i, int rows, const float* top, float* sum) {
  for (int r = 0; r < rows; r += lanes) {
    const VecF sums = load(sum + r);
    if (t.lse) {
      const VecF lse = (load(top + r) + log2(sums)) * log_2;
      for (int v = 0; v < lanes && r + v < rows; v++)
        t.lse[static_cast<std::ptrdiff_t>(i + r + v) * t.shape->heads + head] = lse[v];
    }
    store(sum + r, 1.0f / sums);
  }
}

struct PutFloats {
  float* weights;
  std::ptrdiff_t ld;
  void operator()(int i, int j, VecF w, VecF more) const {
    store(weights + i * ld + j, w);
    store(weights + i * ld + j + lanes, more);
  }
  void end_row(int) const {}
};

[[maybe_unused]] static void attend_float(const AttentionTask& t, const AttentionBuffers& b) {
  const AttentionShape& shape = *t.shape;
  const int d = shape.head_size, n = t.length, span = shape.span < n ? shape.span : 0;
  if (span) hide_beyond(span, b.bias);
  for (int head = t.first_head; head < t.last_head; head++) {
    Loaded loaded(t, b, head);
    if (shape.bias) copy_bias(shape, head, n, b.bias);
    for (int i = 0, blocks = (n + attention_rows - 1) / attention_rows; i < n; blocks--) {
      const int m = (n - i + blocks - 1) / blocks;
      // The keys that some of these queries see, in whole tiles; the rest are skipped.
      int first = 0, last = n;
      if (span) {
        first = i < span ? 0 : (i - span + 1) / attention_tile * attention_tile;
        last = i + m - 1 + span < n ? i + m - 1 + span : n;
      }
      const int padded_last = static_cast<int>(round_up(last, attention_tile));
      loaded.upto(padded_last < n ? padded_last : n);
      std::ptrdiff_t ld;
      const float* q = loaded.queries(i, m, ld);
      multiply_head(q, ld, loaded.keys(first), m, padded_last - first, d, b.logits, b.logits_ld, false);
      float top[attention_rows] = {}, sum[attention_rows] = {};
      SoftmaxRows s = softmax_of(t, b, head, i, m);
      if (span) {
        s.length = last - first;
        s.bias = b.bias + span_centre(span) + first - i;
      }
      softmax(s, top, sum, PutFloats{b.logits, b.logits_ld});
      multiply_head(b.logits, b.logits_ld, loaded.values(first), m, static_cast<int>(b.d), s.length, b.sums, b.d,
                    false);
      finish_rows(t, head, i, m, top, sum);
      write_rows(b.sums, b.d, sum, m, d, element(t.out, shape.bf16, i * t.out_row + head * d), shape.bf16, t.out_row);
      i += m;
    }
  }
}

// Turns logits into probabilities P (with dropout, as they multiplied values), and their gradients into those of the
// exponents: P * (mask * grad - inner). Zero past the last key.
template <bool Biased, bool Dropped>
static void softmax_grad(const SoftmaxRows& rows, const float* lse, const float* inner, float* grad) {
  const SoftmaxRows s = rows;
  for (int i = 0; i < s.rows; i++) {
    const MaskRow mask(s.dropout, s.head, s.first_query + i);
    for (int j = 0; j < s.length; j += lanes) {
      VecF p = exp2(softmax_exponent<Biased>(s, i, j) - lse[i]);
      if (j + lanes > s.length) p = first_lanes(s.length - j, p, VecF{});
      VecF g = load(grad + i * s.ld + j);
      if (Dropped) {
        const VecF m = mask.at(j);
        g *= m;
        store(s.logits + i * s.ld + j, p * m);
      } else {
        store(s.logits + i * s.ld + j, p);
      }
      g = p * (g - inner[i]);
      if (j + lanes > s.length) g = first_lanes(s.length - j, g, VecF{});
      store(grad + i * s.ld + j, g);
    }
  }
}

[[maybe_unused]] static void attend_gradients(const AttentionGradTask& g, const AttentionBuffers& b) {
  const AttentionTask& t = g.forward;
  const AttentionShape& shape = *t.shape;
  const bool bf16 = shape.bf16;
  const int n = t.length, d = shape.head_size;
  const int padded_n = static_cast<int>(round_up(n, attention_tile)), padded_d = static_cast<int>(b.d);
  const std::ptrdiff_t dense = static_cast<std::ptrdiff_t>(shape.heads) * d, panel = b.d * attention_tile;
  auto *keys = reinterpret_cast<float*>(b.keys), *values = reinterpret_cast<float*>(b.values),
       *key_rows = reinterpret_cast<float*>(b.key_rows), *rows = reinterpret_cast<float*>(b.rows);
  float scale[attention_rows], one[attention_rows];
  for (int r = 0; r < attention_rows; r++) {
    scale[r] = shape.scale;
    one[r] = 1.0f;
  }
  for (int head = t.first_head; head < t.last_head; head++) {
    const auto at = [&](const void* data, int i, std::ptrdiff_t row) {
      return element(data, bf16, i * row + static_cast<std::ptrdiff_t>(head) * d);
    };
    const auto write = [&](const float* in, const float* factor, int m, void* data, int i) {
      write_rows(in, b.d, factor, m, d, element(data, bf16, i * dense + static_cast<std::ptrdiff_t>(head) * d), bf16,
                 dense);
    };
    copy_columns(at(t.k, 0, t.row), bf16, t.row, n, d, b.d, rows, keys);
    copy_columns(at(t.v, 0, t.row), bf16, t.row, n, d, b.d, rows, values);
    copy_rows(at(t.k, 0, t.row), bf16, t.row, n, d, b.d, key_rows);
    if (shape.bias) {
      copy_bias(shape, head, n, b.bias);
      __builtin_memset(b.grad_bias, 0, b.bias_ld * sizeof(float));
    }
    for (int i = 0; i < n; i += attention_rows) {
      const int m = n - i < attention_rows ? n - i : attention_rows;
      copy_rows(at(t.q, i, t.row), bf16, t.row, m, d, b.d, rows);
      copy_rows(at(g.upstream, i, dense), bf16, dense, m, d, b.d, b.upstream);
      copy_rows(at(t.out, i, dense), bf16, dense, m, d, b.d, b.sums);
      float lse[attention_rows], inner[attention_rows];
      for (int r = 0; r < m; r++) {
        VecF sum = {};
        for (int k = 0; k < padded_d; k += lanes) sum += load(b.upstream + r * b.d + k) * load(b.sums + r * b.d + k);
        inner[r] = horizontal_sum(sum);
        lse[r] = t.lse[static_cast<std::ptrdiff_t>(i + r) * shape.heads + head] * log2_e;
      }
      multiply_head(rows, b.d, {keys, attention_tile, panel}, m, padded_n, d, b.logits, b.logits_ld, false);
      multiply_head(b.upstream, b.d, {values, attention_tile, panel}, m, padded_n, d, b.grad_logits, b.logits_ld,
                    false);
      const SoftmaxRows s = softmax_of(t, b, head, i, m);
      if (s.dropout.threshold)
        (s.bias ? softmax_grad<true, true> : softmax_grad<false, true>)(s, lse, inner, b.grad_logits);
      else
        (s.bias ? softmax_grad<true, false> : softmax_grad<false, false>)(s, lse, inner, b.grad_logits);
      if (shape.bias)
        for (int r = 0; r < m; r++) {
          float* sums = b.grad_bias + n - 1 - i - r;
          for (int j = 0; j < n; j += lanes)
            store(sums + j, load(sums + j) + load(b.grad_logits + r * b.logits_ld + j));
        }
      const HeadOperand left{rows, b.d, attention_tile}, upstream{b.upstream, b.d, attention_tile};
      multiply_head(b.grad_logits, b.logits_ld, {key_rows, b.d, attention_tile}, m, padded_d, n, b.sums, b.d, false);
      multiply_head<true>(b.grad_logits, b.logits_ld, left, n, padded_d, m, b.grad_keys, b.d, i > 0);
      multiply_head<true>(b.logits, b.logits_ld, upstream, n, padded_d, m, b.grad_values, b.d, i > 0);
      write(b.sums, scale, m, g.grad_q, i);
    }
    for (int i = 0; i < n; i += attention_rows) {
      const int m = n - i < attention_rows ? n - i : attention_rows;
      write(b.grad_keys + i * b.d, scale, m, g.grad_k, i);
      write(b.grad_values + i * b.d, one, m, g.grad_v, i);
    }
    if (shape.bias) {
      float* out = g.grad_bias + head * (2 * g.bias_reach - 1) + g.bias_reach - n;
      for (int k = 0; k < 2 * n - 1; k++) out[k] += b.grad_bias[k];
    }
  }
}

}  // namespace sparsecse::SPARSECSE_ISA
