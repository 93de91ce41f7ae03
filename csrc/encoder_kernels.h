// The table of operations that the inference encoder is written in, one for each precision and instruction set.
//
// Matrices of weights are packed into 32-bit words as the pairwise kernels' blocks are (tile_kernels.h): a word holds
// one float, two bf16 or four int8 that are neighbours along the dimension a product sums over.
//   operand  [rows, lda]   left operand, in words
//   weights  [n / 64][kw / k_block][2][k_block][32]   right operand: blocks of 64 columns (the last one may have one
//            panel of 32), each cut into blocks along K, so that a product reads memory from end to end
//   products [n / 32, rows, 32]   results, in panels: floats, or int32 where the operands are int8
//   values   [rows, row]   what the next kernel reads: floats or bf16
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.h"
#include "tile_kernels.h"

namespace sparsecse {

enum class Precision : int { float32, bfloat16, int8 };
enum class Activation : int { gelu, gelu_tanh, relu, silu };

// What a row of operands or of weights has as its largest value once it is int8.
constexpr float int8_largest = 127.0f;

// Products of operands and weights on their way to being values.
struct Products {
  const float* c;                  // [panels, c_panel / 32, 32]
  std::ptrdiff_t c_panel;
  const float* bias;               // [n]
  // Only where operands are int8, else null:
  const float* row_scale;          // [rows]
  const float* column_scale;       // [n]
  const std::int32_t* correction;  // [n], added to the int32 products
};

struct Norm {
  const float* weight;  // [padded_n], padded with zeros
  const float* bias;    // [padded_n], the same
  float eps;
  int n, padded_n;      // padded_n: a multiple of 32
  const float* operand_scale;  // [padded_n]: int8 operands are the row times this; null for other operands
  bool operand_alone;          // the hidden states stay as they were summed; for operands in floats
};

// Rows of operands, as they are written.
struct OperandRows {
  Word* words;        // [rows, lda]
  std::ptrdiff_t lda;
  float* row_scale;   // [rows], written where operands are int8
};

struct EmbeddingTables {
  const float* word;      // [vocabulary, n]
  const float* position;  // [positions, n], or null
  const float* type;      // [n], or null
};

struct EncoderKernels {
  bool bf16_values;
  int word_elements;        // 1, 2 or 4
  int k_block;              // words of K in a block of weights, at most
  int row_multiple;         // operands and products have rows to this multiple; what the added ones hold is never used
  std::uint8_t int8_zero;   // the byte that stands for 0 in int8 operands

  // Around all calls of one thread.
  void (*enter)();
  void (*leave)();
  // c = (or +=, with accumulate) a [m, kw] * b [panels, kw, 32], panels 1 or 2. `next` is the memory that the call
  // after this one will read as b, asked for meanwhile.
  void (*gemm)(const Word* a, std::ptrdiff_t lda, const Word* b, int kw, float* c, std::ptrdiff_t c_panel, int m,
               int panels, bool accumulate, const Word* next);
  // Sum of the embeddings of rows first .. last, then LayerNorm. hidden: [rows, norm.padded_n].
  void (*embed)(const EmbeddingTables& tables, const std::int32_t* ids, const std::int32_t* positions,
                const Norm& norm, int first, int last, float* hidden, const OperandRows& out);
  // Products (of rows 0 .. rows, columns column .. column + n) plus bias, through the activation (or none, null), to
  // values at `out`, whose column 0 is the products' column 0.
  void (*activate)(const Products& products, const Activation* activation, int rows, int column, int n, void* out,
                   std::ptrdiff_t row);
  // The same for a block of 64 columns, of which the first 32 go through the activation and are multiplied by the
  // others: 32 values at `out`, whose column 0 is that of the first block. Null where operands are not floats.
  void (*gate)(const Products& products, const Activation& activation, int rows, int column, void* out,
               std::ptrdiff_t row);
  // hidden = LayerNorm(hidden + products + bias) for rows first .. last, also as operands. products.c null: bias alone.
  void (*add_norm)(const Products& products, const Norm& norm, int first, int last, float* hidden,
                   const OperandRows& out);
  // Values [rows, n] to int8 operands, zeros after n in both. Null where values are operands.
  void (*quantise)(const void* values, std::ptrdiff_t row, int n, int first, int last, const OperandRows& out);
};

// Null where this level does not compute in that precision natively.
const EncoderKernels* encoder_kernels(Precision precision, CpuLevel level);

// One per instruction set, each in the file of that name.
extern const EncoderKernels encoder_portable, encoder_avx2, encoder_avx512, encoder_avx512vnni_int8,
    encoder_avx512bf16, encoder_avx512bf16_int8, encoder_amx, encoder_amx_int8;

}  // namespace sparsecse
