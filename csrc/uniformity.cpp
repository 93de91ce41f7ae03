// Uniformity over all pairs of a set of vectors, with its gradient, each pair of blocks visited once.
//
// With w_ij = exp(-t ||x_i - x_j||^2), S = sum over i < j of w_ij and r_i = sum over j of w_ij:
//   value   = log(2 S / (n (n - 1)))
//   dU/dx_i = -2 t / S * (r_i x_i - sum_j w_ij x_j)
// Blocks meet as players of a round-robin tournament: within a round no block plays twice, so threads add to the
// gradient without locks, and every sum is taken in an order that does not depend on their number.
#include <cmath>
#include <exception>
#include <limits>
#include <vector>

#include "blocks.h"
#include "pairwise.h"

namespace sparsecse {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Pair {
  long left, right;
};

// Round 0: every block with itself. Rounds 1 ..: the circle method, with a bye where the number of blocks is odd.
std::vector<std::vector<Pair>> tournament(long blocks) {
  std::vector<std::vector<Pair>> rounds(1);
  for (long b = 0; b < blocks; b++) rounds[0].push_back({b, b});
  const long players = blocks + blocks % 2, circle = players - 1;
  for (long r = 0; r < circle; r++) {
    std::vector<Pair> round;
    if (players - 1 < blocks) round.push_back({r, players - 1});
    for (long k = 1; k < players / 2; k++) round.push_back({(r + k) % circle, (r - k + circle) % circle});
    if (!round.empty()) rounds.push_back(round);
  }
  return rounds;
}

// From the shape alone, never from the number of threads, so that results do not depend on it. Large blocks do more
// work per vector read and small ones leave work for every thread; a multiple of four blocks shares out evenly.
int block_size(long n) {
  const long target = n > 1536 ? 320 : n > 384 ? 96 : 64;
  const long blocks = round_up((n + target - 1) / target, 4);
  return static_cast<int>(round_up((n + blocks - 1) / blocks, panel_width));
}

// Threads that have something to do: starting and awaiting more costs small sets dearly.
int useful_threads(int threads, long n, long d, long blocks) {
  if (3.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(d) < 4e6) return 1;
  const long most = (blocks + 1) / 2;
  return static_cast<int>(threads < most ? threads : most);
}

class Uniformity {
 public:
  Uniformity(const TileKernels& kernels, CpuLevel level, const VectorSet& set, double t, float* grad, int threads)
      : kernels_(kernels), level_(level), set_(set), t_(t), grad_(grad),
        threads_(useful_threads(threads, set.n, set.source.d, set.blocks())), rounds_(tournament(set.blocks())),
        bias_(make_scratch<float>(set.padded_n())), row_sums_(static_cast<std::size_t>(set.padded_n())) {}

  double run() {
    const double largest = set_origin_and_norms();
    if (!std::isfinite(largest)) return fill_nan();
    // exp(-60) is 1e-26: down to there weights are exact enough in floats as they are. Where two vectors may be
    // farther apart, divide every weight by the largest, which takes a pass to find.
    double shift = 0;
    if (4 * t_ * largest > 60) {
      shift = -largest_exponent();
      shift_ = static_cast<float>(shift);
    }
    const double total = visit_pairs();
    if (grad_) finish_gradient(total);
    const double n = static_cast<double>(set_.n);
    return std::log(2 * total / (n * (n - 1))) - static_cast<double>(shift_) / log2_e;
  }

 private:
  // Distances do not move with the origin, and cancellation in ||x||^2 + ||y||^2 - 2 x.y is least about the mean. In
  // bf16 the inputs stay as they are. Returns the largest squared norm, NaN if anything is not finite.
  double set_origin_and_norms() {
    const long n = set_.n, d = set_.source.d;
    const bool bf16 = set_.source.bf16;
    const auto* floats = static_cast<const float*>(set_.source.data);
    const auto* halves = static_cast<const std::uint16_t*>(set_.source.data);
    const auto at = [=](long i) {
      if (!bf16) return floats[i];
      const std::uint32_t word = static_cast<std::uint32_t>(halves[i]) << 16;
      float value;
      __builtin_memcpy(&value, &word, 4);
      return value;
    };
    if (!kernels_.pairs) {
      origin_.assign(static_cast<std::size_t>(d), 0.0f);
      constexpr long chunk = 64;
#pragma omp parallel for num_threads(threads_)
      for (long c = 0; c < d; c += chunk) {
        const long width = c + chunk < d ? chunk : d - c;
        double sums[chunk] = {};
        for (long i = 0; i < n; i++)
          for (long k = 0; k < width; k++) sums[k] += at(i * d + c + k);
        for (long k = 0; k < width; k++) origin_[c + k] = static_cast<float>(sums[k] / static_cast<double>(n));
      }
      set_.source.origin = origin_.data();
    }
    const float* origin = set_.source.origin;
    std::vector<double> norms(static_cast<std::size_t>(n));
#pragma omp parallel for num_threads(threads_)
    for (long i = 0; i < n; i++) {
      // Eight sums, which the compiler may keep in one vector.
      double sums[8] = {};
      for (long k = 0; k < d; k++) {
        const float v = at(i * d + k) - (origin ? origin[k] : 0.0f);
        sums[k % 8] += static_cast<double>(v) * v;
      }
      norms[i] = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
      bias_[i] = static_cast<float>(-t_ * log2_e * norms[i]);
    }
    double largest = 0;
    for (long i = 0; i < n; i++) {
      if (!std::isfinite(norms[i])) return norms[i] - norms[i];
      if (norms[i] > largest) largest = norms[i];
    }
    for (long i = n; i < set_.padded_n(); i++) bias_[i] = -infinity;
    if (!std::isfinite(static_cast<float>(4 * t_ * log2_e * largest))) return std::numeric_limits<double>::quiet_NaN();
    return largest;
  }

  double fill_nan() {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    if (grad_)
      for (long i = 0; i < set_.padded_n() * set_.padded_d; i++) grad_[i] = static_cast<float>(nan);
    return nan;
  }

  // Calls visit(strip, i, j) for each strip of the pair's dot products, i and j its first row and column.
  template <class Visit>
  void for_strips(const Pair& pair, PackedBlock& left, PackedBlock& right, WeightBlock& weights, bool gradient,
                  Visit visit) const {
    const bool same = pair.left == pair.right;
    // With itself a block needs no second product, and its own panels serve the first.
    left.pack(kernels_, set_, pair.left, true, gradient && !same);
    right.pack(kernels_, set_, pair.right, false, gradient);
    for (int i = 0; i < left.n; i += strip_rows) {
      float row_bias[strip_rows];
      for (int k = 0; k < strip_rows; k++) row_bias[k] = bias_[pair.left * set_.block + i + k] + shift_;
      for (int j = 0; j < right.n; j += strip_columns) {
        WeightStrip strip = weights.strip(kernels_, left, right, i, j);
        strip.row_bias = row_bias;
        strip.col_bias = bias_.get() + pair.right * set_.block + j;
        strip.factor = static_cast<float>(2 * t_ * log2_e);
        strip.ceiling = shift_;
        if (same && j <= i && i < j + strip.n)
          for (int k = 0; k < strip_rows; k++) strip.dots[k * strip.ld + (i - j) + k] = -infinity;
        visit(strip, i, j);
      }
    }
  }

  // Runs play(pair, index, left, right, weights) for every pair, in rounds without conflicts.
  template <class Play>
  void for_pairs(Play play) {
    std::exception_ptr failure;
#pragma omp parallel num_threads(threads_)
    {
      std::unique_ptr<PackedBlock> left, right;
      std::unique_ptr<WeightBlock> weights;
      try {
        left = std::make_unique<PackedBlock>(set_);
        right = std::make_unique<PackedBlock>(set_);
        weights = std::make_unique<WeightBlock>(kernels_, set_.block, set_.block);
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
      }
#pragma omp barrier
      long first = 0;
      for (const auto& round : rounds_) {
        const long size = static_cast<long>(round.size());
#pragma omp for schedule(dynamic, 1)
        for (long p = 0; p < size; p++)
          if (!failure) play(round[p], first + p, *left, *right, *weights);
        first += size;
      }
    }
    if (failure) std::rethrow_exception(failure);
  }

  // Runs work(block, scratch of one block's floats) for every block.
  template <class Work>
  void for_blocks(Work work) {
    std::exception_ptr failure;
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1)
    for (long b = 0; b < set_.blocks(); b++) {
      try {
        const auto scratch = make_scratch<float>(static_cast<long>(set_.block) * set_.padded_d);
        work(b, scratch.get());
      } catch (...) {
#pragma omp critical
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
  }

  std::size_t pairs() const {
    std::size_t count = 0;
    for (const auto& round : rounds_) count += round.size();
    return count;
  }

  double largest_exponent() {
    std::vector<float> largest(pairs());
    for_pairs([&](const Pair& pair, long index, PackedBlock& left, PackedBlock& right, WeightBlock& weights) {
      float best = -infinity;
      for_strips(pair, left, right, weights, false, [&](WeightStrip& strip, int, int) {
        const float e = kernels_.max_exponent(strip);
        if (e > best) best = e;
      });
      largest[index] = best;
    });
    float best = -infinity;
    for (const float e : largest)
      if (e > best) best = e;
    return best < 0 ? best : 0;
  }

  double visit_pairs() {
    std::vector<double> totals(pairs());
    const int padded_d = set_.padded_d;
    for_pairs([&](const Pair& pair, long index, PackedBlock& left, PackedBlock& right, WeightBlock& weights) {
      const bool same = pair.left == pair.right;
      double total = 0;
      if (!grad_) {
        for_strips(pair, left, right, weights, false,
                   [&](WeightStrip& strip, int, int) { total += kernels_.sum_weights(strip); });
        totals[index] = same ? total / 2 : total;
        return;
      }
      const long left_first = pair.left * set_.block, right_first = pair.right * set_.block;
      float* left_grad = grad_ + left_first * padded_d;
      float* right_grad = grad_ + right_first * padded_d;
      std::vector<float> col_sums(static_cast<std::size_t>(set_.block), 0.0f);
      for_strips(pair, left, right, weights, true, [&](WeightStrip& strip, int i, int j) {
        float sums[strip_rows] = {};
        strip.row_sums = sums;
        strip.col_sums = col_sums.data() + j;
        kernels_.weigh(strip);
        total += strip.total;
        for (int k = 0; k < strip_rows; k++) row_sums_[left_first + i + k] += sums[k];
      });
      totals[index] = same ? total / 2 : total;
      if (same) {
        // The first round: nothing has been added to this block's gradient yet.
        for (long k = 0; k < static_cast<long>(left.n) * padded_d; k++) left_grad[k] = 0.0f;
      } else {
        for (int k = 0; k < right.n; k++) row_sums_[right_first + k] += col_sums[k];
        weights.transposed_times_left(kernels_, right.n, left, padded_d, right_grad);
      }
      weights.times_right(kernels_, left.n, right, padded_d, left_grad);
    });
    double sum = 0;
    for (const double total : totals) sum += total;
    return sum;
  }

  void finish_gradient(double total) {
    const long d = set_.source.d;
    const float scale = static_cast<float>(-2 * t_ / total);
    const TileKernels& floats = float_kernels(level_);
    for_blocks([&](long b, float* x) {
      const long first = b * set_.block;
      float* g = grad_ + first * set_.padded_d;
      panels_to_rows(g, set_.padded(b), set_.padded_d, x);
      floats.pack_rows(set_.source, first, set_.valid(b), set_.padded(b), set_.padded_d, reinterpret_cast<Word*>(x));
      for (int i = 0; i < set_.padded(b); i++, g += set_.padded_d, x += set_.padded_d) {
        const float r = static_cast<float>(row_sums_[first + i]);
        for (long k = 0; k < d; k++) g[k] = scale * (r * x[k] - g[k]);
      }
    });
  }

  const TileKernels& kernels_;
  CpuLevel level_;
  VectorSet set_;
  double t_;
  float* grad_;
  int threads_;
  std::vector<std::vector<Pair>> rounds_;
  Scratch<float> bias_;            // [padded n]: -t log2(e) ||x||^2
  std::vector<double> row_sums_;   // [padded n]: r
  std::vector<float> origin_;
  float shift_ = 0;                // in powers of two
};

}  // namespace

double uniformity(const void* x, bool bf16, long n, long d, double t, float* grad, int threads, CpuLevel level) {
  const TileKernels& kernels = bf16 ? bf16_kernels(level) : float_kernels(level);
  const VectorSet set{{x, nullptr, d, bf16}, n, block_size(n), static_cast<int>(round_up(d, panel_width))};
  return Uniformity(kernels, level, set, t, grad, threads).run();
}

}  // namespace sparsecse
