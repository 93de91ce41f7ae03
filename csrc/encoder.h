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
  bool norm_first;  // norms are of what products read, instead of the hidden states, until after the last layer
  long vocabulary, positions;
};

struct NormSource {
  const float* weight;  // [hidden_size]
  const float* bias;    // [hidden_size], or null for zeros
};

struct LayerSource {
  int heads, neurons;
  // up_value: without weights, or a neuron is the activation of `up` times this.
  LinearSource qkv, attention_output, up, up_value, down;
  // After each half's sum; without weights where nothing reads what they give.
  NormSource attention_norm, output_norm;
  // [hidden_size], or null for ones: what the hidden states are multiplied with before they become int8 operands of qkv
  // and up, whose weights must have been divided by it.
  const float *qkv_scale, *up_scale;
  const float* relative_bias;  // [heads, 2 * reach - 1] by distance key - query, or null
  long reach;
  int span;            // as in AttentionShape, and
  const float* turns;  // [positions, head_size], or null; not copied
};

// What becomes of the tokens' vectors.
enum class Pooling : int { mean, first_token, first_last_mean, none };

class Encoder {
 public:
  // norm: of the embeddings. input_norm: with norm_first, what stands between them and the first layer, or null. The
  // tables are not copied and must outlive the encoder.
  Encoder(const EncoderShape& shape, const EmbeddingTables& tables, const NormSource& norm,
          const NormSource* input_norm, CpuLevel level);
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
  Scratch<float> norm_weight_, norm_bias_, input_weight_, input_bias_, ones_, zeros_;
  std::vector<Layer> layers_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> workspaces_;
};

}  // namespace sparsecse
