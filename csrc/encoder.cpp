// The inference encoder: layers of products, attention and LayerNorm over the tokens of many sentences at once.
//
// Sentences are gathered into chunks, and a chunk goes through all layers before the next one: what the layers hand to
// each other then stays in the cache. Threads take whole chunks where there are enough, so that none waits for
// another. Where there are not (one sentence, above all), a team of threads shares a chunk: every stage is divided by
// columns, rows or heads, and each thread then reads only its part of the weights, which is what small chunks wait for.
#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "attention.h"

namespace sparsecse {
namespace {

// Tokens of a chunk that one thread works on: more reuse the weights better, fewer leave more of the cache to values.
constexpr long chunk_tokens = 192;
// Fewer tokens than this for each thread, and threads share chunks.
constexpr long tokens_worth_a_thread = 96;

// Bytes from row to row: an odd number of cache lines, so that the rows of a column do not meet in few cache sets.
constexpr long row_bytes(long bytes) { return round_up(bytes, 64) | 64; }

// Threads that work on one chunk together.
class Team {
 public:
  int size = 1;
  long chunk = 0;

  void wait() {
    if (size == 1) return;
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    // The others are microseconds away, unless the machine is busy with something else.
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++) {
      if (spins > 4000) std::this_thread::yield();
#ifdef SPARSECSE_X86
      __builtin_ia32_pause();
#endif
    }
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
};

struct Range {
  long first, last;
};

// Part `rank` of `size` of 0 .. count.
Range share(long count, int rank, int size) { return {count * rank / size, count * (rank + 1) / size}; }

struct Chunk {
  long first_sentence, last_sentence, first_token;
  int tokens;
};

// Sentences in their order, into at least `least` chunks of about equal length where there are enough.
std::vector<Chunk> divide(const std::int64_t* lengths, long sentences, long total, long least) {
  const long count = std::max(least, round_up((total + chunk_tokens - 1) / chunk_tokens, least));
  std::vector<Chunk> chunks;
  long first = 0, first_token = 0, token = 0;
  for (long s = 0; s < sentences; s++) {
    token += lengths[s];
    const long wanted = total * static_cast<long>(chunks.size() + 1) / count;
    // Whichever end is nearer to the even division.
    const bool full = s + 1 == sentences || token + lengths[s + 1] / 2 >= wanted;
    if (full && token > first_token) {
      chunks.push_back({first, s + 1, first_token, static_cast<int>(token - first_token)});
      first = s + 1;
      first_token = token;
    }
  }
  return chunks;
}

}  // namespace

struct Encoder::Layer {
  int heads, neurons;
  PackedLinear qkv, attention_output, up, down;
  Scratch<float> attention_weight, attention_bias, output_weight, output_bias;
  Scratch<float> qkv_scale, up_scale;
  const float* relative_bias;
  long reach;
  int span;
  const float* turns;
  bool gated;
};

// The memory of one team, for chunks of up to `rows` tokens.
struct Encoder::Workspace {
  int rows, threads;
  long operand_ld, values_row, context_row, narrow_ld;  // in words, values, values, words
  Scratch<float> hidden, products, row_scale;
  Scratch<Word> operand, narrow;
  Scratch<char> values, context;
  Scratch<std::int32_t> positions;
  std::vector<Scratch<float>> strips;  // one per thread: [2, rows, 32]
  std::vector<AttentionScratch> attention;
};

// One chunk on its way through the layers, as one thread of a team sees it.
class Pass {
 public:
  Pass(const Encoder& encoder, Encoder::Workspace& work, Team& team, int rank, const std::int32_t* ids,
       const std::int64_t* lengths)
      : e_(encoder), k_(encoder.kernels_), w_(work), team_(team), rank_(rank), ids_(ids), lengths_(lengths),
        value_bytes_(k_.bf16_values ? 2 : 4) {}

  void run(const Chunk& chunk, Pooling pooling, bool normalise, float* out) {
    chunk_ = &chunk;
    rows_ = share(chunk.tokens, rank_, team_.size);
    const std::size_t layers = e_.layers_.size();
    // What a LayerNorm hands on is scaled for the product that takes it.
    const auto qkv_scale = [&](std::size_t l) {
      return l < layers && e_.layers_[l].heads ? e_.layers_[l].qkv_scale.get() : e_.ones_.get();
    };
    embed(qkv_scale(0));
    for (std::size_t l = 0; l < layers; l++) {
      const Encoder::Layer& layer = e_.layers_[l];
      attend(layer);
      feed_forward(layer, qkv_scale(l + 1), l + 1 < layers);
      if (pooling == Pooling::first_last_mean && l == 0) pool(Pooling::mean, 0.5f, false, false, out);
    }
    const bool average = pooling == Pooling::first_last_mean;
    pool(average ? Pooling::mean : pooling, average && layers ? 0.5f : 1.0f, average && layers, normalise, out);
    team_.wait();
  }

 private:
  OperandRows hidden_operand() const { return {w_.operand.get(), w_.operand_ld, w_.row_scale.get()}; }
  OperandRows narrow_operand() const { return {w_.narrow.get(), w_.narrow_ld, w_.row_scale.get() + w_.rows}; }

  // follows: whether a layer, or half of one, comes after it.
  Norm norm(const Scratch<float>& weight, const Scratch<float>& bias, const float* operand_scale, bool follows) const {
    return {weight.get(),
            bias.get(),
            e_.shape_.layer_norm_eps,
            e_.shape_.hidden_size,
            e_.padded_hidden_,
            operand_scale,
            follows && e_.shape_.norm_first};
  }

  void embed(const float* operand_scale) {
    const EncoderShape& shape = e_.shape_;
    long token = chunk_->first_token;
    std::int32_t* positions = w_.positions.get();
    for (long s = chunk_->first_sentence; s < chunk_->last_sentence; s++) {
      int position = shape.position_offset;
      for (long i = 0; i < lengths_[s]; i++, token++) {
        const long row = token - chunk_->first_token;
        const bool skipped = shape.position_offset && ids_[token] == shape.pad_token;
        const int mine = skipped ? shape.position_offset - 1 : position++;
        if (rows_.first <= row && row < rows_.last) positions[row] = mine;
      }
    }
    const int first = static_cast<int>(rows_.first), last = static_cast<int>(rows_.last);
    const Norm norm = this->norm(e_.norm_weight_, e_.norm_bias_, operand_scale, false);
    k_.embed(e_.tables_, ids_ + chunk_->first_token, positions, norm, first, last, w_.hidden.get(), hidden_operand());
    if (e_.input_weight_) {
      const Norm input = this->norm(e_.input_weight_, e_.input_bias_, operand_scale, !e_.layers_.empty());
      Products nothing{};
      nothing.bias = e_.zeros_.get();
      k_.add_norm(nothing, input, first, last, w_.hidden.get(), hidden_operand());
    }
    team_.wait();
  }

  // Products of this thread's blocks of columns; done(block's first column, panels, products) after each.
  template <class Done>
  void multiply(const PackedLinear& linear, const OperandRows& a, float* c, bool whole, Done done) {
    const int padded_m = static_cast<int>(round_up(chunk_->tokens, k_.row_multiple));
    const std::ptrdiff_t c_panel = static_cast<std::ptrdiff_t>(w_.rows) * panel_width;
    const long blocks = (linear.padded_n + block_columns - 1) / block_columns;
    const Range mine = share(blocks, rank_, team_.size);
    for (long block = mine.first; block < mine.last; block++) {
      const int column = static_cast<int>(block * block_columns);
      const int panels = std::min(block_columns, linear.padded_n - column) / panel_width;
      const Word* b = linear.words.get() + static_cast<long>(column) * linear.kw;
      float* target = whole ? c + column / panel_width * c_panel : c;
      for (int k = 0; k < linear.kw; k += k_.k_block) {
        const int kw = std::min(k_.k_block, linear.kw - k);
        const Word* next = b + static_cast<long>(panels) * panel_width * kw;
        const bool last = block + 1 == mine.last && k + kw == linear.kw;
        k_.gemm(a.words + k, a.lda, b, kw, target, c_panel, padded_m, panels, k > 0, last ? nullptr : next);
        b = next;
      }
      done(column, panels, target);
    }
  }

  Products products(const PackedLinear& linear, const float* c, const float* row_scale) const {
    const bool int8 = linear.column_scale != nullptr;
    return {c,
            static_cast<std::ptrdiff_t>(w_.rows) * panel_width,
            linear.bias.get(),
            int8 ? row_scale : nullptr,
            linear.column_scale.get(),
            linear.correction.get()};
  }

  // A linear layer from the hidden states to values; gated: as pack_gated makes them.
  void to_values(const PackedLinear& linear, const Activation* activation, bool gated) {
    const OperandRows a = hidden_operand();
    float* strip = w_.strips[rank_].get();
    multiply(linear, a, strip, false, [&](int column, int panels, const float* c) {
      // The strip's panels are the products' panels from `column` on.
      Products p = products(linear, c, a.row_scale);
      p.c -= column / panel_width * p.c_panel;
      if (gated)
        k_.gate(p, *activation, chunk_->tokens, column, w_.values.get(), w_.values_row);
      else
        k_.activate(p, activation, chunk_->tokens, column, panels * panel_width, w_.values.get(), w_.values_row);
    });
    team_.wait();
  }

  // A linear layer back to the hidden size, added to the hidden states, and LayerNorm.
  void to_hidden(const PackedLinear& linear, const void* values, long row, const Norm& norm) {
    if (!linear.words) {
      Products p = products(linear, nullptr, nullptr);
      k_.add_norm(p, norm, static_cast<int>(rows_.first), static_cast<int>(rows_.last), w_.hidden.get(),
                  hidden_operand());
      team_.wait();
      return;
    }
    OperandRows a = narrow_operand();
    if (k_.quantise) {
      a.lda = linear.kw;
      k_.quantise(values, row, linear.k, static_cast<int>(rows_.first), static_cast<int>(rows_.last), a);
      team_.wait();
    } else {
      a.words = const_cast<Word*>(static_cast<const Word*>(values));
      a.lda = row * value_bytes_ / 4;
    }
    multiply(linear, a, w_.products.get(), true, [](int, int, const float*) {});
    team_.wait();
    k_.add_norm(products(linear, w_.products.get(), a.row_scale), norm, static_cast<int>(rows_.first),
                static_cast<int>(rows_.last), w_.hidden.get(), hidden_operand());
    team_.wait();
  }

  void attend(const Encoder::Layer& layer) {
    const EncoderShape& shape = e_.shape_;
    const Norm norm = this->norm(layer.attention_weight, layer.attention_bias,
                                 layer.neurons ? layer.up_scale.get() : e_.ones_.get(), true);
    const int width = layer.heads * shape.head_size;
    if (layer.heads) {
      to_values(layer.qkv, nullptr, false);
      const AttentionShape attention{layer.heads,
                                     shape.head_size,
                                     k_.bf16_values,
                                     1.0f / std::sqrt(static_cast<float>(shape.head_size)),
                                     layer.relative_bias,
                                     layer.reach,
                                     layer.span,
                                     layer.turns};
      const TileKernels& tiles = k_.bf16_values ? bf16_kernels(e_.level_) : float_kernels(e_.level_);
      // The heads of a sentence are shared out, so that a team has work where there is one sentence.
      const Range heads = share(layer.heads, rank_, team_.size);
      long row = 0;
      for (long s = chunk_->first_sentence; s < chunk_->last_sentence; s++) {
        const char* q = w_.values.get() + row * w_.values_row * value_bytes_;
        if (lengths_[s])
          sparsecse::attend(tiles, attention, w_.attention[rank_], q, q + width * value_bytes_,
                            q + 2 * width * value_bytes_, w_.values_row, static_cast<int>(lengths_[s]),
                            static_cast<int>(heads.first), static_cast<int>(heads.last),
                            w_.context.get() + row * w_.context_row * value_bytes_, w_.context_row);
        row += lengths_[s];
      }
      if (rank_ == 0) clear_padding(layer.attention_output, width);
      // Attention's own products may have left the tiles in another state.
      k_.enter();
      team_.wait();
    }
    to_hidden(layer.attention_output, w_.context.get(), w_.context_row, norm);
  }

  // What follows the context in the values that are read with it meets zeros in the weights, and must not be NaN.
  void clear_padding(const PackedLinear& linear, int width) {
    const long padded = static_cast<long>(linear.kw) * k_.word_elements;
    if (padded == width) return;
    for (long i = 0; i < chunk_->tokens; i++)
      std::memset(w_.context.get() + (i * w_.context_row + width) * value_bytes_, 0,
                  static_cast<std::size_t>((padded - width) * value_bytes_));
  }

  void feed_forward(const Encoder::Layer& layer, const float* operand_scale, bool follows) {
    const Norm norm = this->norm(layer.output_weight, layer.output_bias, operand_scale, follows);
    if (layer.neurons) to_values(layer.up, &e_.shape_.activation, layer.gated);
    to_hidden(layer.down, w_.values.get(), w_.values_row, norm);
  }

  void pool(Pooling pooling, float weight, bool add, bool normalise, float* out) {
    const long n = e_.shape_.hidden_size;
    const float* hidden = w_.hidden.get();
    if (pooling == Pooling::none) {
      for (long i = rows_.first; i < rows_.last; i++)
        std::memcpy(out + (chunk_->first_token + i) * n, hidden + i * e_.padded_hidden_,
                    static_cast<std::size_t>(n) * sizeof(float));
      return;
    }
    const Range mine = share(chunk_->last_sentence - chunk_->first_sentence, rank_, team_.size);
    long row = 0;
    for (long s = 0; s < mine.last; s++) {
      const long count = lengths_[chunk_->first_sentence + s];
      const float* first = hidden + row * e_.padded_hidden_;
      row += count;
      if (s < mine.first) continue;
      float* target = out + (chunk_->first_sentence + s) * n;
      if (!add) std::fill(target, target + n, 0.0f);
      const long tokens = pooling == Pooling::mean ? count : std::min<long>(count, 1);
      const float factor = weight / static_cast<float>(std::max<long>(tokens, 1));
      for (long i = 0; i < tokens; i++)
        for (long j = 0; j < n; j++) target[j] += factor * first[i * e_.padded_hidden_ + j];
      if (!normalise) continue;
      double squares = 0;
      for (long j = 0; j < n; j++) squares += static_cast<double>(target[j]) * target[j];
      // As torch.nn.functional.normalize has it.
      const double length = std::sqrt(squares);
      const float inverse = static_cast<float>(1 / (length < 1e-12 ? 1e-12 : length));
      for (long j = 0; j < n; j++) target[j] *= inverse;
    }
  }

  const Encoder& e_;
  const EncoderKernels& k_;
  Encoder::Workspace& w_;
  Team& team_;
  int rank_;
  const std::int32_t* ids_;
  const std::int64_t* lengths_;
  int value_bytes_;
  const Chunk* chunk_ = nullptr;
  Range rows_{};
};

Encoder::Encoder(const EncoderShape& shape, const EmbeddingTables& tables, const NormSource& norm,
                 const NormSource* input_norm, CpuLevel level)
    : shape_(shape), tables_(tables), level_(level), kernels_(*encoder_kernels(shape.precision, level)),
      padded_hidden_(static_cast<int>(round_up(shape.hidden_size, panel_width))),
      reach_(shape.positions - shape.position_offset),
      norm_weight_(pad(norm.weight, shape.hidden_size, padded_hidden_)),
      norm_bias_(pad(norm.bias, shape.hidden_size, padded_hidden_)), ones_(make_scratch<float>(padded_hidden_)),
      zeros_(pad(nullptr, shape.hidden_size, padded_hidden_)) {
  std::fill(ones_.get(), ones_.get() + padded_hidden_, 1.0f);
  if (!input_norm) return;
  input_weight_ = pad(input_norm->weight, shape.hidden_size, padded_hidden_);
  input_bias_ = pad(input_norm->bias, shape.hidden_size, padded_hidden_);
}

Encoder::~Encoder() = default;

void Encoder::add_layer(const LayerSource& source) {
  const auto pack = [&](const LinearSource& linear) { return pack_linear(linear, kernels_); };
  const auto zeros = [&](const float* values) { return pad(values, shape_.hidden_size, padded_hidden_); };
  const auto ones = [&](const float* values) { return zeros(values ? values : ones_.get()); };
  const bool gated = source.up_value.weight;
  PackedLinear up;
  if (source.neurons) up = gated ? pack_gated(source.up, source.up_value, kernels_) : pack(source.up);
  Layer layer{source.heads,
              source.neurons,
              source.heads ? pack(source.qkv) : PackedLinear{},
              pack(source.attention_output),
              std::move(up),
              pack(source.down),
              ones(source.attention_norm.weight),
              zeros(source.attention_norm.bias),
              ones(source.output_norm.weight),
              zeros(source.output_norm.bias),
              ones(source.qkv_scale),
              ones(source.up_scale),
              source.relative_bias,
              source.reach,
              source.span,
              source.turns,
              gated};
  if (source.relative_bias) reach_ = std::min(reach_, source.reach);
  layers_.push_back(std::move(layer));
}

std::unique_ptr<Encoder::Workspace> Encoder::take_workspace(int rows, int threads) const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& work : workspaces_)
      if (work && work->rows >= rows && work->threads >= threads) {
        auto mine = std::move(work);
        work = std::move(workspaces_.back());
        workspaces_.pop_back();
        return mine;
      }
    // What is too small for this will not be missed.
    if (workspaces_.size() > 64) workspaces_.clear();
  }
  auto work = std::make_unique<Workspace>();
  const int padded = static_cast<int>(round_up(rows, panel_width));
  const int elements = kernels_.word_elements;
  long values = 0, context = 0, narrow = 0;
  int most_heads = 0, span = 0;
  const float* relative_bias = nullptr;
  for (const Layer& layer : layers_) {
    values = std::max<long>({values, layer.qkv.padded_n, layer.up.padded_n});
    context = std::max<long>(context, static_cast<long>(layer.attention_output.kw) * elements);
    narrow = std::max<long>({narrow, layer.attention_output.kw, layer.down.kw});
    most_heads = std::max(most_heads, layer.heads);
    span = std::max(span, layer.span);
    if (layer.relative_bias) relative_bias = layer.relative_bias;
  }
  const int value_bytes = kernels_.bf16_values ? 2 : 4;
  work->rows = padded;
  work->threads = threads;
  work->operand_ld = row_bytes(round_up((padded_hidden_ + elements - 1) / elements, 16) * 4) / 4;
  work->values_row = row_bytes(values * value_bytes) / value_bytes;
  work->context_row = row_bytes(context * value_bytes) / value_bytes;
  work->narrow_ld = narrow;
  const long hidden = static_cast<long>(padded) * padded_hidden_;
  work->hidden = make_scratch<float>(hidden);
  work->products = make_scratch<float>(hidden);
  work->row_scale = make_scratch<float>(2 * padded);
  work->operand = make_scratch<Word>(padded * work->operand_ld);
  if (kernels_.quantise) work->narrow = make_scratch<Word>(padded * narrow);
  work->values = make_scratch<char>(padded * work->values_row * value_bytes);
  work->context = make_scratch<char>(padded * work->context_row * value_bytes);
  work->positions = make_scratch<std::int32_t>(padded);
  // Operands have words after the hidden size that nobody writes; what they hold meets zeros and must not be NaN.
  std::memset(work->operand.get(), 0, static_cast<std::size_t>(padded * work->operand_ld) * sizeof(Word));
  const TileKernels& tiles = kernels_.bf16_values ? bf16_kernels(level_) : float_kernels(level_);
  const AttentionShape attention{std::max(most_heads, 1), shape_.head_size, kernels_.bf16_values, 1.0f,
                                 relative_bias, reach_, span, nullptr};
  for (int t = 0; t < threads; t++) {
    work->strips.push_back(make_scratch<float>(static_cast<long>(padded) * block_columns));
    work->attention.emplace_back(tiles, attention, std::min<int>(padded, static_cast<int>(reach_)));
  }
  return work;
}

void Encoder::encode(const std::int32_t* ids, const std::int64_t* lengths, long sentences, Pooling pooling,
                     bool normalise, float* out, int threads) const {
  long total = 0;
  for (long s = 0; s < sentences; s++) total += lengths[s];
  if (pooling != Pooling::none) std::fill(out, out + sentences * shape_.hidden_size, 0.0f);
  if (!total) return;
  const int teams = static_cast<int>(
      std::max<long>(1, std::min<long>({static_cast<long>(threads), sentences, total / tokens_worth_a_thread})));
  const std::vector<Chunk> chunks = divide(lengths, sentences, total, teams);
  int rows = 0;
  for (const Chunk& chunk : chunks) rows = std::max(rows, chunk.tokens);
  std::vector<std::unique_ptr<Workspace>> works;
  for (int t = 0; t < teams; t++) works.push_back(take_workspace(rows, (threads + teams - 1) / teams));
  std::vector<Team> crew(static_cast<std::size_t>(teams));
  std::atomic<long> next{0};

  const auto serve = [&](int team, int rank) {
    Team& mine = crew[static_cast<std::size_t>(team)];
    kernels_.enter();
    Pass pass(*this, *works[static_cast<std::size_t>(team)], mine, rank, ids, lengths);
    while (true) {
      if (rank == 0) mine.chunk = next.fetch_add(1);
      mine.wait();
      const long chunk = mine.chunk;
      if (chunk >= static_cast<long>(chunks.size())) break;
      pass.run(chunks[static_cast<std::size_t>(chunk)], pooling, normalise, out);
    }
    kernels_.leave();
  };
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  {
    // The runtime may grant fewer threads than asked for; all of those there are belong to a team.
    const int granted = omp_get_num_threads(), thread = omp_get_thread_num();
#pragma omp single
    for (int t = 0; t < teams; t++) {
      const Range members = share(granted, t, teams);
      crew[static_cast<std::size_t>(t)].size = static_cast<int>(members.last - members.first);
    }
    for (int t = 0; t < teams; t++) {
      const Range members = share(granted, t, teams);
      if (members.first <= thread && thread < members.last) serve(t, thread - static_cast<int>(members.first));
    }
  }
#else
  serve(0, 0);
#endif
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& work : works) workspaces_.push_back(std::move(work));
}

}  // namespace sparsecse
