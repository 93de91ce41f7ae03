// Packing of the inference encoder's weights, once for each encoder.
#include "encoder_weights.h"

#include <algorithm>
#include <cmath>
#include <vector>

#define SPARSECSE_ISA portable
#include "scalars.h"

namespace sparsecse {
namespace {

Word float_word(const float* w) {
  Word word;
  std::memcpy(&word, w, sizeof(word));
  return word;
}

Word bf16_word(const float* w) {
  return portable::float_to_bf16(w[0]) | static_cast<Word>(portable::float_to_bf16(w[1])) << 16;
}

// Column j of the packed weights; word_at(k) gives its words of K in their order.
template <class WordAt>
void pack_column(const PackedLinear& linear, int j, int k_block, WordAt word_at) {
  const int block = j / block_columns * block_columns;
  const int panels = std::min(block_columns, linear.padded_n - block) / panel_width;
  const int panel = (j - block) / panel_width, column = j % panel_width;
  Word* out = linear.words.get() + static_cast<long>(block) * linear.kw;
  for (int k0 = 0; k0 < linear.kw; k0 += k_block) {
    const int size = std::min(k_block, linear.kw - k0);
    Word* part = out + static_cast<long>(panel) * size * panel_width + column;
    for (int k = 0; k < size; k++) part[static_cast<long>(k) * panel_width] = word_at(k0 + k);
    out += static_cast<long>(panels) * size * panel_width;
  }
}

void pack_int8_column(PackedLinear& linear, int j, const std::vector<float>& weights, const EncoderKernels& kernels) {
  float largest = 0;
  for (const float w : weights) largest = std::max(largest, std::fabs(w));
  const float inverse = largest > 0 ? int8_largest / largest : 0;
  std::int32_t sum = 0;
  pack_column(linear, j, kernels.k_block, [&](int k) {
    Word word = 0;
    for (int b = 0; b < 4; b++) {
      const int value = static_cast<int>(std::nearbyint(weights[static_cast<std::size_t>(4 * k + b)] * inverse));
      sum += value;
      word |= static_cast<Word>(value & 0xff) << 8 * b;
    }
    return word;
  });
  linear.column_scale[j] = largest / int8_largest;
  linear.correction[j] = -kernels.int8_zero * sum;
}

}  // namespace

Scratch<float> pad(const float* values, int n, int padded_n) {
  auto padded = make_scratch<float>(padded_n);
  std::fill(values ? std::copy(values, values + n, padded.get()) : padded.get(), padded.get() + padded_n, 0.0f);
  return padded;
}

PackedLinear pack_linear(const LinearSource& source, const EncoderKernels& kernels) {
  PackedLinear linear;
  linear.n = source.n;
  linear.padded_n = static_cast<int>(round_up(source.n, panel_width));
  linear.bias = pad(source.bias, source.n, linear.padded_n);
  if (!source.weight) return linear;
  const int elements = kernels.word_elements;
  linear.k = source.k;
  linear.kw = static_cast<int>(round_up((source.k + elements - 1) / elements, 16));
  linear.words = make_scratch<Word>(static_cast<long>(linear.padded_n) * linear.kw);
  if (elements == 4) {
    linear.column_scale = make_scratch<float>(linear.padded_n);
    linear.correction = make_scratch<std::int32_t>(linear.padded_n);
  }
  std::vector<float> weights(static_cast<std::size_t>(linear.kw * elements));
  for (int j = 0; j < linear.padded_n; j++) {
    std::fill(weights.begin(), weights.end(), 0.0f);
    if (j < source.n) std::copy_n(source.weight + static_cast<long>(j) * source.k, source.k, weights.begin());
    const float* w = weights.data();
    if (elements == 1)
      pack_column(linear, j, kernels.k_block, [=](int k) { return float_word(w + k); });
    else if (elements == 2)
      pack_column(linear, j, kernels.k_block, [=](int k) { return bf16_word(w + 2 * k); });
    else
      pack_int8_column(linear, j, weights, kernels);
  }
  return linear;
}

PackedLinear pack_gated(const LinearSource& gate, const LinearSource& value, const EncoderKernels& kernels) {
  const long panels = (gate.n + panel_width - 1) / panel_width, k = gate.k;
  std::vector<float> weights(static_cast<std::size_t>(panels * block_columns * k), 0.0f);
  std::vector<float> biases(static_cast<std::size_t>(panels * block_columns), 0.0f);
  long target = 0;
  for (long panel = 0; panel < panels; panel++)
    for (const LinearSource* source : {&gate, &value}) {
      const long first = panel * panel_width, count = std::min<long>(panel_width, source->n - first);
      std::copy_n(source->weight + first * k, count * k, weights.data() + target * k);
      if (source->bias) std::copy_n(source->bias + first, count, biases.data() + target);
      target += panel_width;
    }
  return pack_linear({weights.data(), biases.data(), static_cast<int>(target), gate.k}, kernels);
}

}  // namespace sparsecse
