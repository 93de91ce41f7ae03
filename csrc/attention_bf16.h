// Attention on pairs of bf16, with AVX512-BF16's dot product or AMX's tiles; included once, by tile_bf16.cpp.
//
// Right operands lie in tiles of 1 KB, 16 pairs x 16 columns: keys as [padded keys / 16, d / 32] tiles of pairs of
// coordinates, values as [padded keys / 32, d / 16] tiles of pairs of keys. The columns of two tiles of values are in
// the order that unpacking leaves them in, which writing the output undoes.
namespace sparsecse::bf16 {

constexpr int tile_words = 256;

// A product of rows (of pairs, `a_stride` bytes apart) with tiles: c [m, 16 * columns], over 32 * steps.
struct TileProduct {
  const void* a;
  std::ptrdiff_t a_stride;
  int m;
  const Word* b;
  std::ptrdiff_t b_column, b_step;  // words from one tile to the next
  int columns, steps;
  float* c;
  std::ptrdiff_t ldc;
};

template <int MR, int NV>
static inline void multiply_head_pairs_step(const char* a, const TileProduct& p, const Word* b, float* c) {
  __m512 acc[MR][NV];
  for (int i = 0; i < MR; i++)
    for (int v = 0; v < NV; v++) acc[i][v] = _mm512_setzero_ps();
  for (int step = 0; step < p.steps; step++, a += 64, b += p.b_step)
    for (int kk = 0; kk < 16; kk++) {
      __m512bh bv[NV];
#pragma GCC unroll 2
      for (int v = 0; v < NV; v++) bv[v] = (__m512bh)_mm512_loadu_si512(b + v * p.b_column + kk * 16);
#pragma GCC unroll 16
      for (int i = 0; i < MR; i++) {
        int word;
        __builtin_memcpy(&word, a + i * p.a_stride + kk * 4, 4);
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++)
          acc[i][v] = _mm512_dpbf16_ps(acc[i][v], (__m512bh)_mm512_set1_epi32(word), bv[v]);
      }
    }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 2
    for (int v = 0; v < NV; v++) _mm512_storeu_ps(c + i * p.ldc + v * 16, acc[i][v]);
}

template <int MR, int NV>
static void multiply_head_pairs_rows(int rows, const char* a, const TileProduct& p, const Word* b, float* c) {
  if (rows == MR)
    multiply_head_pairs_step<MR, NV>(a, p, b, c);
  else if constexpr (MR > 1)
    multiply_head_pairs_rows<MR - 1, NV>(rows, a, p, b, c);
}

// Products by AVX512-BF16.
struct VectorProducts {
  explicit VectorProducts(int) {}
  static void keep_awake() {}
  void operator()(const TileProduct& p) {
    for (int j = 0; j < p.columns; j += 2)
      for (int i = 0, passes = (p.m + head_step_rows - 1) / head_step_rows; i < p.m; passes--) {
        const int count = (p.m - i + passes - 1) / passes;
        const char* a = static_cast<const char*>(p.a) + i * p.a_stride;
        const Word* b = p.b + j * p.b_column;
        float* c = p.c + i * p.ldc + j * 16;
        if (j + 1 == p.columns)
          multiply_head_pairs_rows<head_step_rows, 1>(count, a, p, b, c);
        else
          multiply_head_pairs_rows<head_step_rows, 2>(count, a, p, b, c);
        i += count;
      }
  }
};

template <int Rows, int Columns>
static inline void multiply_head_tiles(const TileProduct& p, int j) {
  const char* a = static_cast<const char*>(p.a);
  const Word* b = p.b + j * p.b_column;
  _tile_zero(0);
  if (Columns == 2) _tile_zero(1);
  if (Rows == 2) _tile_zero(2);
  if (Rows == 2 && Columns == 2) _tile_zero(3);
  for (int step = 0; step < p.steps; step++, a += 64, b += p.b_step) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, p.a_stride);
    _tile_dpbf16ps(0, 4, 6);
    if (Columns == 2) {
      _tile_loadd(7, b + p.b_column, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (Rows == 2) {
      _tile_loadd(5, a + 16 * p.a_stride, p.a_stride);
      _tile_dpbf16ps(2, 5, 6);
      if (Columns == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  float* c = p.c + j * 16;
  const std::ptrdiff_t stride = p.ldc * 4;
  _tile_stored(0, c, stride);
  if (Columns == 2) _tile_stored(1, c + 16, stride);
  if (Rows == 2) _tile_stored(2, c + 16 * p.ldc, stride);
  if (Rows == 2 && Columns == 2) _tile_stored(3, c + 16 * p.ldc + 16, stride);
}

// Not inlined, with memory barriers at both ends: the compiler does not know that tile loads read memory.
static __attribute__((noinline)) void run_tile_product(const TileProduct& p) {
  asm volatile("" ::: "memory");
  int j = 0;
  if (p.m > 16) {
    for (; j + 2 <= p.columns; j += 2) multiply_head_tiles<2, 2>(p, j);
    if (j < p.columns) multiply_head_tiles<2, 1>(p, j);
  } else {
    for (; j + 2 <= p.columns; j += 2) multiply_head_tiles<1, 2>(p, j);
    if (j < p.columns) multiply_head_tiles<1, 1>(p, j);
  }
  asm volatile("" ::: "memory");
}

// Products by AMX. The tiles are given the rows that there are, so that nothing past a sentence is read; setting them
// up costs as much as ten products and is done when that number changes.
class AmxProducts {
 public:
  explicit AmxProducts(int m) { configure(m); }
  ~AmxProducts() { _tile_release(); }
  AmxProducts(const AmxProducts&) = delete;
  AmxProducts& operator=(const AmxProducts&) = delete;

  void operator()(const TileProduct& p) {
    if (p.m != m_) configure(p.m);
    run_tile_product(p);
  }

  // The unit goes to sleep after some 1600 cycles without a product, and takes a thousand to wake (measured on a Xeon
  // of 2.6 GHz). What this one adds up is never read.
  static void keep_awake() { _tile_dpbf16ps(0, 4, 6); }

 private:
  void configure(int m) {
    m_ = m;
    TileConfig config;
    const auto first = static_cast<std::uint8_t>(m < 16 ? m : 16), second = static_cast<std::uint8_t>(m - first);
    config.rows[0] = config.rows[1] = config.rows[4] = first;
    config.rows[2] = config.rows[3] = config.rows[5] = second ? second : 16;
    configure_tiles(config);
  }

  int m_;
};

static inline __mmask32 first_columns(std::ptrdiff_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

// n rows of d elements, `row` elements apart -> [n, padded_d], padded with zeros.
static inline void copy_pair_rows(const void* data, std::ptrdiff_t row, int n, int d, std::ptrdiff_t padded_d,
                                  Word* out) {
  auto* to = reinterpret_cast<std::uint16_t*>(out);
  for (int i = 0; i < n; i++, to += padded_d) {
    const auto* in = static_cast<const std::uint16_t*>(data) + i * row;
    for (int k = 0; k < padded_d; k += 32)
      _mm512_storeu_si512(to + k, _mm512_maskz_loadu_epi16(first_columns(d - k), in + k));
  }
}

static inline void pack_keys(const void* data, std::ptrdiff_t row, int n, int d, std::ptrdiff_t padded_d, Word* rows,
                             Word* tiles) {
  for (int j = 0; j < n; j += 16) {
    const int count = n - j < 16 ? n - j : 16;
    const void* in = element(data, true, j * row);
    std::ptrdiff_t stride = row * 2;
    if (d != padded_d) {
      copy_pair_rows(in, row, count, d, padded_d, rows);
      in = rows;
      stride = padded_d * 2;
    }
    for (int k = 0; k < padded_d; k += 32, tiles += tile_words)
      transpose_rows(static_cast<const char*>(in) + k * 2, stride, count, tiles);
  }
}

// Past the last row there are zeros: weights of zero must not meet NaN.
static inline void pack_values(const void* data, std::ptrdiff_t row, int n, int d, std::ptrdiff_t padded_d,
                               Word* tiles) {
  const auto put = [](Word* out, __m512i first, __m512i second) {
    _mm512_storeu_si512(out, _mm512_unpacklo_epi16(first, second));
    _mm512_storeu_si512(out + tile_words, _mm512_unpackhi_epi16(first, second));
  };
  const auto* in = static_cast<const std::uint16_t*>(data);
  for (int j = 0; j < n; j += 32, in += 32 * row)
    for (int k = 0; k < padded_d; k += 32, tiles += 2 * tile_words) {
      const int count = n - j < 32 ? n - j : 32;
      const __mmask32 columns = first_columns(d - k);
      const auto load_row = [&](int i) { return _mm512_maskz_loadu_epi16(columns, in + i * row + k); };
      int i = 0;
      for (; i + 2 <= count; i += 2) put(tiles + i * 8, load_row(i), load_row(i + 1));
      if (i < count) {
        put(tiles + i * 8, load_row(i), _mm512_setzero_si512());
        i += 2;
      }
      for (; i < 32; i += 2) put(tiles + i * 8, _mm512_setzero_si512(), _mm512_setzero_si512());
    }
}

static inline void write_pair_rows(const float* sums, std::ptrdiff_t padded_d, const float* scale, int n, int d,
                                   void* data, std::ptrdiff_t row) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  for (int k = 0; k < padded_d; k += 32) {
    const __mmask32 columns = first_columns(d - k);
    for (int i = 0; i < n; i++) {
      const float* in = sums + i * padded_d + k;
      const __m512 s = _mm512_set1_ps(scale[i]);
      const __m512 low = _mm512_mul_ps(_mm512_loadu_ps(in), s), high = _mm512_mul_ps(_mm512_loadu_ps(in + 16), s);
      const __m512i both = _mm512_permutexvar_epi64(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
      _mm512_mask_storeu_epi16(static_cast<std::uint16_t*>(data) + i * row + k, columns, both);
    }
  }
}

template <class Products>
struct PutPairs {
  Word* weights;
  std::ptrdiff_t ld;
  int awake_mask = attention_rows - 1;  // how often: after a thousand cycles or so

  PutPairs(const AttentionBuffers& b, int length) : weights(b.weights), ld(b.weights_ld) {
    while (awake_mask && (awake_mask + 1) * length > 2048) awake_mask /= 2;
  }
  void operator()(int i, int j, VecF w, VecF more) const {
    const __m512bh both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(more), reinterpret_cast<__m512>(w));
    _mm512_storeu_si512(weights + i * ld + j / 2, (__m512i)both);
  }
  void end_row(int i) const {
    if ((i & awake_mask) == awake_mask) Products::keep_awake();
  }
};

// Values stay from the packing of their head until the sums of its last block.
static inline Word* values_of(const AttentionTask& t, const AttentionBuffers& b, int head) {
  return b.values + head % attention_heads * round_up(t.length, 32) * (b.d / 2);
}

static inline const void* element_of(const AttentionTask& t, const void* data, int i, int head) {
  return element(data, true, i * t.row + static_cast<std::ptrdiff_t>(head) * t.shape->head_size);
}

// A block of queries of one head; `first`: of that head.
struct Block {
  int head, query;
  bool first;
  Block(const AttentionTask& t, int blocks, int rows, int number)
      : head(t.first_head + number / blocks), first(number % blocks == 0) {
    const int start = number % blocks * rows, latest = t.length - rows;
    query = start < latest ? start : latest;
  }
};

// Steps of neighbouring blocks are taken in turn, for two reasons. A tile cannot be loaded before the stores that
// filled it have left the core's queue, so other work comes between; and vectors run slower for a while after each
// product, so the two products of a round come together.
template <class Products>
static void attend_pairs(const AttentionTask& t, const AttentionBuffers& b) {
  const AttentionShape& shape = *t.shape;
  const int n = t.length, d = shape.head_size;
  const int key_tiles = (n + 15) / 16, value_steps = (n + 31) / 32, depth = static_cast<int>(b.d / 32);
  // Blocks of one height, so that the tiles are set up once; the last may overlap the one before.
  const int blocks = (n + attention_rows - 1) / attention_rows, m = (n + blocks - 1) / blocks;
  const int count = (t.last_head - t.first_head) * blocks;
  float sum[2][attention_rows] = {};
  Products products(m);
  for (int u = -1; u <= count; u++) {
    const Block now(t, blocks, m, u), before(t, blocks, m, u - 1), next(t, blocks, m, u + 1);
    const bool has_now = 0 <= u && u < count, has_before = u > 0, has_next = u + 1 < count;
    if (has_before)
      products({b.weights, b.weights_ld * 4, m, values_of(t, b, before.head), tile_words, b.d / 16 * tile_words,
                depth * 2, value_steps, b.sums, b.d});
    if (has_now) {
      const void* q = element_of(t, t.q, now.query, now.head);
      std::ptrdiff_t stride = t.row * 2;
      if (d != b.d) {
        copy_pair_rows(q, t.row, m, d, b.d, b.rows);
        q = b.rows;
        stride = b.d * 2;
      }
      products({q, stride, m, b.keys, depth * tile_words, tile_words, key_tiles, depth, b.logits, b.logits_ld});
    }
    if (has_before) {
      const std::ptrdiff_t at = before.query * t.out_row + static_cast<std::ptrdiff_t>(before.head) * d;
      write_pair_rows(b.sums, b.d, sum[(u - 1) % 2], m, d, element(t.out, true, at), t.out_row);
    }
    if (has_now) {
      if (shape.bias && now.first) copy_bias(shape, now.head, n, b.bias);
      float top[attention_rows] = {};
      softmax(softmax_of(t, b, now.head, now.query, m), top, sum[u % 2], PutPairs<Products>(b, n));
      finish_rows(t, now.head, now.query, m, top, sum[u % 2]);
    }
    if (has_next && next.first) {
      pack_keys(element_of(t, t.k, 0, next.head), t.row, n, d, b.d, b.rows, b.keys);
      pack_values(element_of(t, t.v, 0, next.head), t.row, n, d, b.d, values_of(t, b, next.head));
    }
  }
}

}  // namespace sparsecse::bf16
