// int8 operands in AVX-512 with VNNI; included after encoder_generic.h by the files that have selected them.
//
// A row is quantised symmetrically: its largest value becomes int8_largest. VNNI multiplies unsigned by signed bytes, so there
// rows are stored with 128 added, which the products' correction takes out again; AMX multiplies signed bytes.
#include "encoder_kernels.h"

namespace sparsecse::SPARSECSE_ISA {

struct Int8Dot {
  using Sum = VecI;
  using Stored = VecIUnaligned;
  using Operand = __m512i;
  static inline Operand broadcast(Word word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static inline Operand read(const Word* words) { return _mm512_loadu_si512(words); }
  static inline Sum add(Sum sum, Operand a, Operand b) {
    return reinterpret_cast<VecI>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
  }
};

// The range of a row that is about to be quantised.
struct Range {
  VecF largest = {}, poison = {};

  inline void see(VecF v) {
    largest = at_least(absolute(v), largest);
    poison += v * 0.0f;
  }
  // A NaN or an infinity in the row makes its scale NaN, and with it all that is computed from the row.
  inline float scale() const { return horizontal_max(largest) / int8_largest + horizontal_sum(poison); }
};

// Where the values of a row are read, vector by vector. (Not lambdas: GCC compiles those of a template for the target that
// is selected at the end of the file.)
struct ScaledHidden {
  const float* hidden;
  const float* channels;
  inline VecF at(int j) const { return load(hidden + j) * load(channels + j); }
};
template <class Values>
struct ValueRow {
  const void* row;
  inline VecF at(int j) const { return Values::get(row, j); }
};

// n: values of the row, a multiple of lanes.
template <int Zero, class Row>
static inline void quantise_row(const Row& row, int n, float scale, Word* out, std::ptrdiff_t words) {
  const VecF inverse = splat(scale > 0 ? 1.0f / scale : 0.0f);
  auto* bytes = reinterpret_cast<std::uint8_t*>(out);
  const __m128i zero = _mm_set1_epi8(static_cast<char>(Zero));
  for (int j = 0; j < n; j += lanes) {
    const __m512i whole = _mm512_cvtps_epi32(reinterpret_cast<__m512>(row.at(j) * inverse));
    const __m128i narrow = _mm512_cvtsepi32_epi8(whole);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + j), _mm_xor_si128(narrow, zero));
  }
  for (std::ptrdiff_t j = n; j < 4 * words; j += 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + j), zero);
}

template <int Zero>
struct Int8Rows {
  static constexpr bool scaled = true;
  struct Writer {
    const float* hidden;
    const float* channels;
    int n;
    Word* words;
    std::ptrdiff_t lda;
    float* row_scale;
    Range range;
    Writer(const Norm& norm, const float* row, const OperandRows& out, int i)
        : hidden(row), channels(norm.operand_scale), n(norm.padded_n), words(out.words + i * out.lda), lda(out.lda),
          row_scale(out.row_scale + i) {}
    inline void put(int column, VecF v) { range.see(v * load(channels + column)); }
    inline void finish() {
      *row_scale = range.scale();
      quantise_row<Zero>(ScaledHidden{hidden, channels}, n, *row_scale, words, lda);
    }
  };
};

template <int Zero, class Values>
static void quantise(const void* values, std::ptrdiff_t row, int n, int first, int last, const OperandRows& out) {
  const int padded_n = static_cast<int>(round_up(n, lanes));
  for (int i = first; i < last; i++) {
    const ValueRow<Values> mine{static_cast<const char*>(values) + i * row * Values::bytes};
    Range range;
    for (int j = 0; j < padded_n; j += lanes) range.see(mine.at(j));
    out.row_scale[i] = range.scale();
    quantise_row<Zero>(mine, padded_n, out.row_scale[i], out.words + i * out.lda, out.lda);
  }
}

}  // namespace sparsecse::SPARSECSE_ISA
