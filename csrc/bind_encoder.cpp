// Python bindings of the inference encoder.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>

#include "bindings.h"
#include "encoder.h"

namespace sparsecse::bindings {
namespace {

using OptionalFloats = std::optional<ConstFloats>;
using OptionalMatrix = std::optional<ConstMatrix>;
using Ids = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Lengths = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Values, std::size_t N>
Values named(const char* const (&names)[N], const std::string& name) {
  for (std::size_t i = 0; i < N; i++)
    if (name == names[i]) return static_cast<Values>(i);
  throw std::invalid_argument("unknown name: " + name);
}

constexpr const char* precisions[] = {"float32", "bfloat16", "int8"};
constexpr const char* activations[] = {"gelu", "gelu_tanh", "relu", "silu"};
constexpr const char* poolings[] = {"mean", "cls", "first_last_avg", "none"};

// The encoder, and the tables that it reads where they lie.
struct BoundEncoder {
  ConstMatrix word;
  OptionalMatrix position;
  OptionalFloats type;
  std::unique_ptr<Encoder> encoder;
  std::vector<ConstMatrix> tables;
};

bool has_size(const ConstFloats& values, int n) { return values.shape(0) == static_cast<std::size_t>(n); }

const float* data_of(const OptionalFloats& values) { return values ? values->data() : nullptr; }

LinearSource linear(const OptionalMatrix& weight, const OptionalFloats& bias, int n, int k) {
  require(!bias || has_size(*bias, n), "a bias does not have one value for each output");
  if (!weight || k == 0 || n == 0) return {nullptr, data_of(bias), n, k};
  require(weight->shape(0) == static_cast<std::size_t>(n) && weight->shape(1) == static_cast<std::size_t>(k),
          "a weight has not the shape that the sizes ask for");
  return {weight->data(), data_of(bias), n, k};
}

NormSource norm(const OptionalFloats& weight, const OptionalFloats& bias, int hidden) {
  require((!weight || has_size(*weight, hidden)) && (!bias || has_size(*bias, hidden)),
          "a LayerNorm has not the hidden size");
  return {data_of(weight), data_of(bias)};
}

}  // namespace

void bind_encoder(nb::module_& m) {
  m.def(
      "computes_in",
      [](const std::string& precision, int level) {
        return encoder_kernels(named<Precision>(precisions, precision), checked_level(level)) != nullptr;
      },
      "precision"_a, "level"_a, "Whether a CPU level computes in that precision natively.");

  nb::class_<BoundEncoder>(m, "Encoder")
      .def(
          "__init__",
          [](BoundEncoder* self, int head_size, const std::string& precision, const std::string& activation, float eps,
             int positions, int position_offset, int pad_token, bool norm_first, const ConstMatrix& word,
             const OptionalMatrix& position, const OptionalFloats& type, const ConstFloats& norm_weight,
             const OptionalFloats& norm_bias, const OptionalFloats& input_norm_weight,
             const OptionalFloats& input_norm_bias, int level) {
            const int hidden = static_cast<int>(word.shape(1));
            require(hidden > 0 && head_size > 0 && (!type || has_size(*type, hidden)) &&
                        (!position || (position->shape(0) == static_cast<std::size_t>(positions) &&
                                       position->shape(1) == word.shape(1))),
                    "the embeddings have different sizes");
            const EncoderShape shape{hidden,
                                     head_size,
                                     named<Precision>(precisions, precision),
                                     named<Activation>(activations, activation),
                                     eps,
                                     position_offset,
                                     pad_token,
                                     norm_first,
                                     static_cast<long>(word.shape(0)),
                                     positions};
            require(shape.positions > position_offset && position_offset >= 0, "there are no positions");
            const CpuLevel cpu = checked_level(level);
            require(encoder_kernels(shape.precision, cpu) != nullptr, "this CPU does not compute in that precision");
            require(!norm_first || shape.precision == Precision::float32, "norms come first in float32 alone");
            new (self) BoundEncoder{word, position, type, nullptr, {}};
            const EmbeddingTables tables{word.data(), position ? position->data() : nullptr, data_of(type)};
            const NormSource input = norm(input_norm_weight, input_norm_bias, hidden);
            self->encoder = std::make_unique<Encoder>(shape, tables, norm(norm_weight, norm_bias, hidden),
                                                      input.weight ? &input : nullptr, cpu);
          },
          "head_size"_a, "precision"_a, "activation"_a, "eps"_a, "positions"_a, "position_offset"_a, "pad_token"_a,
          "norm_first"_a, "word"_a, "position"_a.none(), "type"_a.none(), "norm"_a, "norm_bias"_a.none(),
          "input_norm"_a.none(), "input_norm_bias"_a.none(), "level"_a)
      .def(
          "add_layer",
          [](BoundEncoder& self, int heads, int neurons, const OptionalMatrix& qkv, const OptionalFloats& qkv_bias,
             const OptionalMatrix& attention_output, const OptionalFloats& attention_output_bias,
             const OptionalFloats& attention_norm_weight, const OptionalFloats& attention_norm_bias,
             const OptionalMatrix& up, const OptionalFloats& up_bias, const OptionalMatrix& up_value,
             const OptionalFloats& up_value_bias, const OptionalMatrix& down, const OptionalFloats& down_bias,
             const OptionalFloats& output_norm_weight, const OptionalFloats& output_norm_bias,
             const OptionalFloats& qkv_scale, const OptionalFloats& up_scale, const OptionalMatrix& relative_bias,
             int span, const OptionalMatrix& turns) {
            const EncoderShape& shape = self.encoder->shape();
            const int hidden = shape.hidden_size, width = heads * shape.head_size;
            require(heads >= 0 && neurons >= 0 && (!heads || (qkv && attention_output)) && (!neurons || (up && down)),
                    "a weight is missing");
            require(shape.precision == Precision::float32 || !(up_value || span || turns),
                    "gates, windows and turns are computed in float32 alone");
            LayerSource source{};
            source.heads = heads;
            source.neurons = neurons;
            if (heads) source.qkv = linear(qkv, qkv_bias, 3 * width, hidden);
            source.attention_output = linear(attention_output, attention_output_bias, hidden, width);
            if (neurons) source.up = linear(up, up_bias, neurons, hidden);
            if (neurons && up_value) source.up_value = linear(up_value, up_value_bias, neurons, hidden);
            source.down = linear(down, down_bias, hidden, neurons);
            source.attention_norm = norm(attention_norm_weight, attention_norm_bias, hidden);
            source.output_norm = norm(output_norm_weight, output_norm_bias, hidden);
            require((!qkv_scale || has_size(*qkv_scale, hidden)) && (!up_scale || has_size(*up_scale, hidden)),
                    "a scale has not the hidden size");
            source.qkv_scale = data_of(qkv_scale);
            source.up_scale = data_of(up_scale);
            if (relative_bias && heads) {
              require(relative_bias->shape(0) == static_cast<std::size_t>(heads) && relative_bias->shape(1) % 2 == 1,
                      "the relative bias needs [heads, 2 * reach - 1]");
              source.relative_bias = relative_bias->data();
              source.reach = static_cast<long>(relative_bias->shape(1) + 1) / 2;
              self.tables.push_back(*relative_bias);
            }
            require(span >= 0 && !(span && relative_bias), "a span is at least 0, and goes without a relative bias");
            source.span = span;
            if (turns && heads) {
              require(shape.head_size % 2 == 0 && turns->shape(0) == static_cast<std::size_t>(shape.positions) &&
                          turns->shape(1) == static_cast<std::size_t>(shape.head_size) && !shape.position_offset,
                      "the turns need [positions, head_size], an even size, and positions from 0");
              source.turns = turns->data();
              self.tables.push_back(*turns);
            }
            self.encoder->add_layer(source);
          },
          "heads"_a, "neurons"_a, "qkv"_a.none(), "qkv_bias"_a.none(), "attention_output"_a.none(),
          "attention_output_bias"_a.none(), "attention_norm"_a.none(), "attention_norm_bias"_a.none(),
          "up"_a.none(), "up_bias"_a.none(), "up_value"_a.none(), "up_value_bias"_a.none(), "down"_a.none(),
          "down_bias"_a.none(), "output_norm"_a.none(), "output_norm_bias"_a.none(), "qkv_scale"_a.none(),
          "up_scale"_a.none(), "relative_bias"_a.none(), "span"_a, "turns"_a.none())
      .def(
          "encode",
          [](const BoundEncoder& self, const Ids& ids, const Lengths& lengths, const std::string& pooling,
             bool normalise, const Matrix& out, int threads) {
            const Encoder& encoder = *self.encoder;
            const auto pool = named<Pooling>(poolings, pooling);
            const std::size_t rows = pool == Pooling::none ? ids.shape(0) : lengths.shape(0);
            require(out.shape(0) == rows && out.shape(1) == static_cast<std::size_t>(encoder.shape().hidden_size) &&
                        threads >= 1,
                    "out has not the shape of the result");
            std::size_t total = 0;
            for (std::size_t s = 0; s < lengths.shape(0); s++) {
              const std::int64_t length = lengths.data()[s];
              require(0 <= length && length <= encoder.reach(), "a sentence has more tokens than there are positions");
              total += static_cast<std::size_t>(length);
            }
            require(total == ids.shape(0), "the lengths do not add up to the number of ids");
            const auto vocabulary = static_cast<std::uint32_t>(encoder.shape().vocabulary);
            for (std::size_t i = 0; i < total; i++)
              require(static_cast<std::uint32_t>(ids.data()[i]) < vocabulary, "an id is outside the vocabulary");
            nb::gil_scoped_release release;
            encoder.encode(ids.data(), lengths.data(), static_cast<long>(lengths.shape(0)), pool, normalise, out.data(),
                           threads);
          },
          "ids"_a, "lengths"_a, "pooling"_a, "normalise"_a, "out"_a, "threads"_a);
}

}  // namespace sparsecse::bindings
