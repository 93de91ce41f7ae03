// Python bindings of attention: checks shapes and dtypes, releases the GIL, calls it.
#include "attention.h"
#include "bindings.h"

namespace sparsecse::bindings {
namespace {

using Heads = nb::ndarray<nb::ro, nb::ndim<3>, nb::device::cpu>;
using DenseHeads = nb::ndarray<nb::ro, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using HeadsOut = nb::ndarray<nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class A, class B>
void require_like(const A& x, const B& q) {
  require(x.shape(0) == q.shape(0) && x.shape(1) == q.shape(1) && x.shape(2) == q.shape(2), "shapes do not match");
  require(is_bf16(x) == is_bf16(q), "dtypes do not match");
}

AttentionInput checked_input(const Heads& q, const Heads& k, const Heads& v, const Starts& cu_lengths,
                             const std::optional<ConstMatrix>& bias, double scale, double dropout, std::uint64_t seed) {
  const auto total = static_cast<std::int64_t>(q.shape(0));
  require(total >= 1 && q.shape(1) >= 1 && q.shape(2) >= 1, "expected a token, a head and a coordinate");
  require(0 <= dropout && dropout < 1, "expected 0 <= dropout < 1");
  const auto row = total == 1 ? static_cast<std::int64_t>(q.shape(1) * q.shape(2)) : q.stride(0);
  for (const Heads* x : {&q, &k, &v}) {
    require_like(*x, q);
    require((x->shape(2) == 1 || x->stride(2) == 1) &&
                (x->shape(1) == 1 || x->stride(1) == static_cast<std::int64_t>(x->shape(2))) &&
                (total == 1 || x->stride(0) == row),
            "expected heads side by side, and tokens the same distance apart in query, key and value");
  }
  const auto sentences = static_cast<long>(cu_lengths.shape(0)) - 1;
  require(sentences >= 0 && cu_lengths(0) == 0 && cu_lengths(sentences) == total, "cu_lengths does not match");
  const long reach = bias ? (static_cast<long>(bias->shape(1)) + 1) / 2 : 0;
  if (bias) require(bias->shape(0) == q.shape(1) && bias->shape(1) % 2 == 1, "bias does not match");
  for (long s = 0; s < sentences; s++) {
    const std::int64_t length = cu_lengths(s + 1) - cu_lengths(s);
    require(0 <= length && length <= (bias ? reach : INT32_MAX / 4), "a sentence has a length that cannot be");
  }
  const AttentionShape shape{static_cast<int>(q.shape(1)), static_cast<int>(q.shape(2)), is_bf16(q),
                             static_cast<float>(scale), bias ? bias->data() : nullptr, reach};
  return {shape, q.data(), k.data(), v.data(), row, cu_lengths.data(), sentences, dropout, seed};
}

}  // namespace

void bind_attention(nb::module_& m) {
  m.def(
      "attention_forward",
      [](const Heads& q, const Heads& k, const Heads& v, const Starts& cu_lengths, std::optional<ConstMatrix> bias,
         double scale, double dropout, std::uint64_t seed, const HeadsOut& out, const Matrix& lse, int threads,
         int level) {
        const AttentionInput input = checked_input(q, k, v, cu_lengths, bias, scale, dropout, seed);
        require_like(out, q);
        require(lse.shape(0) == q.shape(0) && lse.shape(1) == q.shape(1) && threads >= 1, "shapes do not match");
        const auto cpu = checked_level(level);
        nb::gil_scoped_release release;
        attention_forward(input, out.data(), lse.data(), threads, cpu);
      },
      "query"_a, "key"_a, "value"_a, "cu_lengths"_a, "bias"_a.none(), "scale"_a, "dropout"_a, "seed"_a, "out"_a,
      "lse"_a, "threads"_a, "level"_a);

  m.def(
      "attention_backward",
      [](const Heads& q, const Heads& k, const Heads& v, const Starts& cu_lengths, std::optional<ConstMatrix> bias,
         double scale, double dropout, std::uint64_t seed, const DenseHeads& out, const ConstMatrix& lse,
         const DenseHeads& upstream, const HeadsOut& grad_q, const HeadsOut& grad_k, const HeadsOut& grad_v,
         std::optional<Matrix> grad_bias, int threads, int level) {
        const AttentionInput input = checked_input(q, k, v, cu_lengths, bias, scale, dropout, seed);
        require_like(out, q);
        require_like(upstream, q);
        for (const HeadsOut* grad : {&grad_q, &grad_k, &grad_v}) require_like(*grad, q);
        require(lse.shape(0) == q.shape(0) && lse.shape(1) == q.shape(1) && threads >= 1, "shapes do not match");
        require(bias.has_value() == grad_bias.has_value() &&
                    (!bias || (grad_bias->shape(0) == bias->shape(0) && grad_bias->shape(1) == bias->shape(1))),
                "bias does not match");
        const auto cpu = checked_level(level);
        nb::gil_scoped_release release;
        attention_backward(input, out.data(), lse.data(), upstream.data(), grad_q.data(), grad_k.data(), grad_v.data(),
                           grad_bias ? grad_bias->data() : nullptr, threads, cpu);
      },
      "query"_a, "key"_a, "value"_a, "cu_lengths"_a, "bias"_a.none(), "scale"_a, "dropout"_a, "seed"_a, "out"_a,
      "lse"_a, "upstream"_a, "grad_query"_a, "grad_key"_a, "grad_value"_a, "grad_bias"_a.none(), "threads"_a,
      "level"_a);
}

}  // namespace sparsecse::bindings
