// Multi-head attention inside packed sentences: memory, and sentences and heads shared out among threads. The
// arithmetic is in attention_generic.h and attention_bf16.h.
#include "attention.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

#define SPARSECSE_ISA portable
#include "scalars.h"

namespace sparsecse {
namespace {

// Some heads of one sentence, the unit that threads take.
struct Piece {
  long sentence;
  int first_head, last_head;
};

// Pieces in runs of about the same work. From the shapes alone, never from the number of threads: gradients of the bias
// are summed run by run.
struct Plan {
  std::vector<Piece> pieces;
  std::vector<std::size_t> runs;  // where each run begins, and the end
  int longest = 0;
  double work = 0;

  explicit Plan(const AttentionInput& input) {
    constexpr int split_length = 128;  // longer sentences are shared out head by head
    constexpr double most_runs = 64;
    std::vector<double> costs;
    for (long s = 0; s < input.sentences; s++) {
      const auto length = static_cast<int>(input.cu_lengths[s + 1] - input.cu_lengths[s]);
      if (length == 0) continue;
      longest = std::max(longest, length);
      const int heads = input.shape.heads, step = length > split_length ? 1 : heads;
      for (int head = 0; head < heads; head += step) {
        pieces.push_back({s, head, head + step});
        costs.push_back(static_cast<double>(length) * (length + 64) * step);
        work += costs.back();
      }
    }
    double sum = work;
    for (std::size_t p = 0; p < pieces.size(); p++) {
      if (sum >= work / most_runs) {
        runs.push_back(p);
        sum = 0;
      }
      sum += costs[p];
    }
    runs.push_back(pieces.size());
  }

  long run_count() const { return static_cast<long>(runs.size()) - 1; }
  // Starting threads costs more than little work.
  int useful_threads(int threads) const { return work < 1e5 ? 1 : threads; }
};

AttentionDropout dropout_of(const AttentionInput& input, long sentence) {
  std::uint32_t key = 0x9e3779b9u;
  for (const std::uint64_t word : {input.seed, input.seed >> 32, static_cast<std::uint64_t>(sentence)})
    key = portable::mix(key ^ static_cast<std::uint32_t>(word));
  return {static_cast<std::uint32_t>(input.dropout * 0x1p32), key, static_cast<float>(1 / (1 - input.dropout))};
}

AttentionTask task_of(const AttentionInput& input, const Piece& piece, const void* out, const float* lse) {
  const std::int64_t first = input.cu_lengths[piece.sentence];
  const std::ptrdiff_t size = input.shape.bf16 ? 2 : 4;
  const std::ptrdiff_t out_row = static_cast<std::ptrdiff_t>(input.shape.heads) * input.shape.head_size;
  const auto at = [=](const void* data, std::ptrdiff_t row) {
    return static_cast<const char*>(data) + first * row * size;
  };
  AttentionTask task{};
  task.shape = &input.shape;
  task.q = at(input.q, input.row);
  task.k = at(input.k, input.row);
  task.v = at(input.v, input.row);
  task.row = input.row;
  task.length = static_cast<int>(input.cu_lengths[piece.sentence + 1] - first);
  task.first_head = piece.first_head;
  task.last_head = piece.last_head;
  task.dropout = dropout_of(input, piece.sentence);
  task.out = const_cast<char*>(at(out, out_row));
  task.out_row = out_row;
  task.lse = const_cast<float*>(lse) + first * input.shape.heads;
  return task;
}

// Runs work(scratch, piece, run) for every piece, run after run.
template <class MakeScratch, class Work>
void for_pieces(const Plan& plan, int threads, MakeScratch scratch_for, Work work) {
  std::exception_ptr failure;
#pragma omp parallel num_threads(plan.useful_threads(threads))
  {
    std::unique_ptr<AttentionScratch> scratch;
    try {
      scratch = std::make_unique<AttentionScratch>(scratch_for());
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
#pragma omp for schedule(dynamic, 1)
    for (long run = 0; run < plan.run_count(); run++)
      if (scratch)
        for (std::size_t p = plan.runs[run]; p < plan.runs[run + 1]; p++) work(*scratch, plan.pieces[p], run);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

AttentionScratch::AttentionScratch(bool pairs, const AttentionShape& shape, int longest, bool gradients) {
  AttentionBuffers& b = buffers_;
  b.d = round_up(shape.head_size, pairs ? 2 * attention_tile : attention_tile);
  const long keys = round_up(longest, 2 * attention_tile);
  // Past the last key there is room for a vector, and rows do not lie a power of two apart, which caches dislike.
  b.logits_ld = keys + attention_tile;
  b.weights_ld = keys / 2 + attention_tile;
  b.bias_ld = 2 * keys + 8 * attention_tile;
  long used = 0;
  const auto place = [&](auto*& pointer, long words) {
    if (memory_) pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(memory_.get() + used);
    used += round_up(words, 16);
  };
  const auto place_all = [&] {
    place(b.keys, keys * b.d);
    place(b.values, (pairs ? attention_heads : 1) * keys * b.d);
    place(b.rows, attention_rows * b.d);
    place(b.logits, attention_rows * b.logits_ld);
    place(b.weights, pairs ? attention_rows * b.weights_ld : 0);
    place(b.sums, attention_rows * b.d);
    place(b.bias, shape.bias || shape.span ? b.bias_ld : 0);
    if (gradients) {
      place(b.key_rows, keys * b.d);
      place(b.upstream, attention_rows * b.d);
      place(b.grad_logits, attention_rows * b.logits_ld);
      place(b.grad_keys, keys * b.d);
      place(b.grad_values, keys * b.d);
      place(b.grad_bias, shape.bias ? b.bias_ld : 0);
    }
  };
  place_all();  // to count
  memory_ = make_scratch<Word>(used);
  // Nothing depends on it, but products take in unused columns too, and slow down where those happen to be denormal.
  std::fill_n(memory_.get(), used, 0u);
  used = 0;
  place_all();
}

void attend(const TileKernels& kernels, const AttentionShape& shape, AttentionScratch& scratch, const void* q,
            const void* k, const void* v, std::ptrdiff_t row, int length, int first_head, int last_head, void* out,
            std::ptrdiff_t out_row) {
  if (length == 0 || first_head == last_head) return;
  kernels.attend({&shape, q, k, v, row, length, first_head, last_head, {}, out, out_row, nullptr}, scratch.buffers());
}

void attention_forward(const AttentionInput& input, void* out, float* lse, int threads, CpuLevel level) {
  const TileKernels& kernels = input.shape.bf16 ? bf16_kernels(level) : float_kernels(level);
  const Plan plan(input);
  for_pieces(plan, threads, [&] { return AttentionScratch(kernels, input.shape, plan.longest); },
             [&](AttentionScratch& scratch, const Piece& piece, long) {
               kernels.attend(task_of(input, piece, out, lse), scratch.buffers());
             });
}

void attention_backward(const AttentionInput& input, const void* out, const float* lse, const void* upstream,
                        void* grad_q, void* grad_k, void* grad_v, float* grad_bias, int threads, CpuLevel level) {
  const TileKernels& kernels = float_kernels(level);
  const Plan plan(input);
  const long heads = input.shape.heads, reach = input.shape.reach, width = 2L * plan.longest - 1;
  std::vector<float> run_bias(grad_bias ? static_cast<std::size_t>(plan.run_count() * heads * width) : 0, 0.0f);
  for_pieces(plan, threads, [&] { return AttentionScratch::for_gradients(input.shape, plan.longest); },
             [&](AttentionScratch& scratch, const Piece& piece, long run) {
               AttentionGradTask task{task_of(input, piece, out, lse), upstream, grad_q, grad_k, grad_v,
                                      run_bias.data() + run * heads * width, plan.longest};
               const std::ptrdiff_t bytes =
                   input.cu_lengths[piece.sentence] * task.forward.out_row * (input.shape.bf16 ? 2 : 4);
               task.upstream = static_cast<const char*>(upstream) + bytes;
               task.grad_q = static_cast<char*>(grad_q) + bytes;
               task.grad_k = static_cast<char*>(grad_k) + bytes;
               task.grad_v = static_cast<char*>(grad_v) + bytes;
               kernels.attend_gradients(task, scratch.buffers());
             });
  if (!grad_bias) return;
  std::fill(grad_bias, grad_bias + heads * (2 * reach - 1), 0.0f);
  for (long run = 0; run < plan.run_count(); run++)
    for (long head = 0; head < heads; head++) {
      const float* from = run_bias.data() + (run * heads + head) * width;
      float* to = grad_bias + head * (2 * reach - 1) + reach - plan.longest;
      for (long k = 0; k < width; k++) to[k] += from[k];
    }
}

}  // namespace sparsecse
