// KernelCall: one call of Ops by its shapes alone, which set its time. The step's trace is made of
// them (step_trace.h); kernel_bench.h measures them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ops.h"

namespace lema {

enum class Kernel {
  Linear,
  LinearBackward,
  LoraNorm,
  RmsNorm,
  RmsNormBackward,
  LayerNorm,
  LayerNormBackward,
  Rope,
  Attention,
  AttentionBackward,
  Swiglu,
  SwigluBackward,
  Gelu,
  GeluBackward,
  Add,
  Embedding,
  EmbeddingBackward,
  ScatterRows,
  HeadBegin,
  HeadChunk,
  HeadFinish,
  HeadWeightBackward,
  SquaredNorm,
  AdamW,
  Fill
};
std::string_view name(Kernel kernel);

// A part of a linear.
struct PartShape {
  int64_t out = 0;
  DType dtype = DType::F32;
  bool transposed = false;
  int64_t rank = 0;  // 0: no adapter
  bool dropout = false, magnitude = false;
  std::optional<DType> bias = {};
  bool joined = false;  // with the part before: their weights lie together, as one matrix
  bool operator==(const PartShape&) const = default;
};

// Fields that a kernel has no use for keep their defaults.
struct KernelCall {
  Kernel kernel = Kernel::Fill;
  DType X = DType::F32;
  int64_t rows = 0, cols = 0;  // of x: (N, I), (N, C); elements and 1 for flat kernels
  int64_t inner = 0;  // norms: columns of one norm; rope: head size; attention: sequences; head:
                      // rows of the chunk
  DType weight = DType::F32;          // of a norm's weight, a table, a head chunk
  bool gradient = false;              // linear_backward: dx is wanted; head: acc is
  // Of a linear; head weight backward: columns of the gradient; rope: rotated columns of a head.
  std::vector<PartShape> parts = {};
  AttentionShape heads = {};
  Write write = Write::Overwrite;  // linear, linear backward, norms backward, embedding
  // Linears, norms, rope, embedding: elements between the rows of x, of y or dy, of dx.
  int64_t x_gap = 0, y_gap = 0, dx_gap = 0;
  int64_t table_offset = 0;  // embedding: bytes from where 16 may be read at once to the table

  bool operator==(const KernelCall& other) const { return key() == other.key(); }
  // Names the call; equal keys take equal time.
  std::string key() const;
  double flops() const;  // multiplications and additions of its products
  double bytes() const;  // that it reads and writes at least
};

}  // namespace lema
