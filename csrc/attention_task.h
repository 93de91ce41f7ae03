// What attention's block operations, one per instruction set, are given to do. Plain data: files for different
// instruction sets share it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile_kernels.h"

namespace sparsecse {

constexpr int attention_rows = 32;  // queries whose logits are held at a time
constexpr int attention_tile = 16;  // keys and coordinates are padded to multiples of this, with bf16 pairs of 32
constexpr int attention_heads = 2;  // heads whose values the bf16 kernels hold

struct AttentionShape {
  int heads, head_size;
  bool bf16;          // of query, key, value and output; else float
  float scale;        // of the dot products
  const float* bias;  // [heads, 2 * reach - 1], or null: column reach - 1 + key - query is added to the scaled product
  long reach;
  // Of attention forward in floats alone, and without a bias:
  int span;            // a token sees those less than this far away; 0: it sees all
  const float* turns;  // [length, head_size], or null: in each row cosines and then sines of the angles by which values
                       // k and head_size / 2 + k of queries and keys are turned together
};

// Which probabilities are dropped: kernels/reference.py defines the mask in words. threshold 0 drops none.
struct AttentionDropout {
  std::uint32_t threshold;
  std::uint32_t key;  // the hash after seed and sentence
  float kept_scale;   // 1 / (1 - dropout)
};

// Memory of one thread, for sentences up to the length it was made for. d: the head size, padded; keys likewise.
struct AttentionBuffers {
  std::ptrdiff_t d;
  Word* keys;     // [padded keys, d], transposed, in tiles
  Word* values;   // [padded keys, d], in rows; or with pairs [attention_heads, padded keys, d], in tiles
  Word* rows;     // [attention_rows, d], queries, or a few keys on their way into tiles
  float* logits;  // [attention_rows, logits_ld]
  std::ptrdiff_t logits_ld;
  Word* weights;  // with pairs: [attention_rows, weights_ld], the weights in bf16
  std::ptrdiff_t weights_ld;
  float* sums;  // [attention_rows, d], weights * values
  float* bias;  // [bias_ld], times log2(e): element length - 1 + key - query, or with a span `span_centre` of these
  std::ptrdiff_t bias_ld;
  // Only where gradients are asked for.
  Word* key_rows;                  // [padded keys, d]
  float* upstream;                 // [attention_rows, d]
  float* grad_logits;              // [attention_rows, logits_ld]
  float *grad_keys, *grad_values;  // [padded keys, d]
  float* grad_bias;                // [bias_ld]
};

// Heads first_head .. last_head of one sentence. Pointers are at its first token, head 0; element (token i, head h, k)
// lies at data[i * row + h * head_size + k].
struct AttentionTask {
  const AttentionShape* shape;
  const void *q, *k, *v;
  std::ptrdiff_t row;
  int length, first_head, last_head;
  AttentionDropout dropout;
  void* out;
  std::ptrdiff_t out_row;
  float* lse;  // [length, heads], or null
};

// Gradients of the same; `out` and `lse` are read. All that is not q, k or v is contiguous.
struct AttentionGradTask {
  AttentionTask forward;
  const void* upstream;
  void *grad_q, *grad_k, *grad_v;
  float* grad_bias;  // [heads, 2 * bias_reach - 1], like the bias but for bias_reach, added to; null without bias
  std::ptrdiff_t bias_reach;
};

}  // namespace sparsecse
