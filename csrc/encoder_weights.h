// Linear layers in the layout that the inference encoder's kernels read.
#pragma once

#include "blocks.h"
#include "encoder_kernels.h"

namespace sparsecse {

struct LinearSource {
  const float* weight;  // [n, k], or null for a layer with a bias alone
  const float* bias;    // [n], or null for zeros
  int n, k;
};

// `words` null where there is a bias alone; column_scale and correction null but for int8.
struct PackedLinear {
  Scratch<Word> words;
  Scratch<float> bias, column_scale;
  Scratch<std::int32_t> correction;
  int n = 0, padded_n = 0;
  int k = 0, kw = 0;  // kw: words of K, a multiple of 16
};

// Columns of a block of weights.
constexpr int block_columns = 2 * panel_width;

PackedLinear pack_linear(const LinearSource& source, const EncoderKernels& kernels);

// Two layers of one size as one: each block has a panel of `gate` and then the same of `value`.
PackedLinear pack_gated(const LinearSource& gate, const LinearSource& value, const EncoderKernels& kernels);

// A copy, filled up with zeros; null stands for n zeros.
Scratch<float> pad(const float* values, int n, int padded_n);

}  // namespace sparsecse
