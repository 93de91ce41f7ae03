// A Transformer encoder for inference on packed sentences, without padding.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "blocks.h"
#include "encoder_kernels.h"
#include "encoder_weights.h"

namespace sparsecse {

struct EncoderShape {
  int hidden_size, head_size;
  Precision precision;
  Activation activation;
  float layer_norm_eps;
  int position_offset;  // RoBERTa's: positions count tokens other than `pad_token` from here; 0 counts all from 0
  int pad_token;
  long vocabulary, positions;
};

struct NormSource {
  const float* weight;  // [hidden_size]
  const float* bias;
};

struct LayerSource {
  int heads, neurons;
  LinearSource qkv, attention_output, up, down;
  NormSource attention_norm, output_norm;
  // [hidden_size], or null for ones: what the hidden states are multiplied with before they become int8 operands of qkv
  // and up, whose weights must have been divided by it.
  const float *qkv_scale, *up_scale;
  const float* relative_bias;  // [heads, 2 * reach - 1] by distance key - query, or null
  long reach;
};

// What becomes of the tokens' vectors.
enum class Pooling : int { mean, first_token, first_last_mean, none };

class Encoder {
 public:
  // The tables are not copied and must outlive the encoder.
  Encoder(const EncoderShape& shape, const EmbeddingTables& tables, const NormSource& norm, CpuLevel level);
  ~Encoder();

  void add_layer(const LayerSource& source);

  // ids: [lengths[0] + lengths[1] + ..]. out: [sentences, hidden_size], or with Pooling::none [tokens, hidden_size].
  // Any number of threads may call this at once, each with a team of `threads` of its own. Ids and lengths must have
  // been checked against the tables.
  void encode(const std::int32_t* ids, const std::int64_t* lengths, long sentences, Pooling pooling, bool normalise,
              float* out, int threads) const;

  const EncoderShape& shape() const { return shape_; }
  long reach() const { return reach_; }  // tokens of a sentence, at most

 private:
  friend class Pass;
  struct Layer;
  struct Workspace;

  std::unique_ptr<Workspace> take_workspace(int rows, int threads) const;

  EncoderShape shape_;
  EmbeddingTables tables_;
  CpuLevel level_;
  const EncoderKernels& kernels_;
  int padded_hidden_;
  long reach_;
  Scratch<float> norm_weight_, norm_bias_, ones_;
  std::vector<Layer> layers_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> workspaces_;
};

}  // namespace sparsecse
