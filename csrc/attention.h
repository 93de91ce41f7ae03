// Multi-head attention inside packed sentences.
#pragma once

#include <cstdint>

#include "attention_task.h"
#include "blocks.h"
#include "cpu.h"

namespace sparsecse {

// One thread's memory for `attend`, made once. longest: tokens of the longest sentence it will see.
class AttentionScratch {
 public:
  AttentionScratch(const TileKernels& kernels, const AttentionShape& shape, int longest)
      : AttentionScratch(kernels.pairs, shape, longest, false) {}
  static AttentionScratch for_gradients(const AttentionShape& shape, int longest) {
    return AttentionScratch(false, shape, longest, true);
  }
  const AttentionBuffers& buffers() const { return buffers_; }

 private:
  AttentionScratch(bool pairs, const AttentionShape& shape, int longest, bool gradients);

  Scratch<Word> memory_;
  AttentionBuffers buffers_{};
};

// Heads first_head .. last_head of one sentence, on the calling thread, without allocating. q, k, v and out point at
// the sentence's first token, head 0; element (token i, head h, k) lies at data[i * row + h * head_size + k], floats,
// or bf16 when shape.bf16. kernels: float_kernels or, when shape.bf16, bf16_kernels. AMX tiles are released at the end.
void attend(const TileKernels& kernels, const AttentionShape& shape, AttentionScratch& scratch, const void* q,
            const void* k, const void* v, std::ptrdiff_t row, int length, int first_head, int last_head, void* out,
            std::ptrdiff_t out_row);

// What the operator is given. q, k, v: [total, heads, head_size], `row` elements from token to token.
struct AttentionInput {
  AttentionShape shape;
  const void *q, *k, *v;
  std::ptrdiff_t row;
  const std::int64_t* cu_lengths;  // [sentences + 1]
  long sentences;
  double dropout;
  std::uint64_t seed;
};

// out: like q but contiguous; lse: [total, heads].
void attention_forward(const AttentionInput& input, void* out, float* lse, int threads, CpuLevel level);

// out, lse: what forward wrote; upstream and the gradients are like out. grad_bias: [heads, 2 * reach - 1], or null
// without bias. Results do not depend on the number of threads.
void attention_backward(const AttentionInput& input, const void* out, const float* lse, const void* upstream,
                        void* grad_q, void* grad_k, void* grad_v, float* grad_bias, int threads, CpuLevel level);

}  // namespace sparsecse
