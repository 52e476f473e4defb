// HeadLoss: final norm, linear cross-entropy and their gradient for the rows of a step that have a
// target. Logits are never stored. An adapter of the head is R more columns: logits = [n | h]
// [W | B]^T with h = scale drop(n) A^T. Where head chunks are streamed, all rows pass each chunk
// before the next one; else a tile of rows passes all chunks, and the running state is a tile's.
// Both give the same bits.
#pragma once

#include <functional>
#include <vector>

#include "model/transformer.h"

namespace lema {

struct HeadLimits {
  int64_t rows = 0;  // rows with a target in one pass
  int64_t token_tile = 0;
  int64_t group_rows =
      0;  // rows that pass the chunks together: `rows` when chunks are streamed, else the tile
  bool gradient = true;
  int64_t rank = 0;        // of the head's adapter; 0: none
  int64_t chunk_rows = 0;  // of the largest chunk, where there is a rank
};

class HeadLoss {
 public:
  // BadInput for a head whose adapter has a magnitude.
  HeadLoss(Device& device, Ops& ops, Transformer& transformer, const HeadLimits& limits);
  static int64_t workspace_bytes(const ModelConfig& config, DType X, const HeadLimits& limits);

  // Gives chunk i to `use`: its weight rows and its first vocabulary row. Supplied by the trainer
  // from the stream.
  using UseChunk = std::function<void(TensorView weight, int64_t v_begin)>;
  using VisitChunks = std::function<void(const UseChunk&)>;

  // Number of visits of all chunks that run() makes for n rows; `twice`: with a gradient of the
  // head's weight or adapter.
  int64_t visits(int64_t n, bool twice) const {
    return n == 0 ? 0 : (n + limits_.group_rows - 1) / limits_.group_rows * (twice ? 2 : 1);
  }

  // x (N, C): the last block's output for the step. rows (n) I32: those with a target, ascending;
  // targets (n) I32. loss (n) f32, per row. dx (N, C) = grad_scale * dLoss/dx for the sum of
  // losses, zero in rows without a target; null: loss only. d_weight (V, C) f32 is added to where
  // it is not null, and the gradients of the head's adapter; the chunks are visited twice then.
  void run(TensorView loss, MatrixView dx, MatrixView x, TensorView rows, TensorView targets,
           TensorView norm_weight, TensorView norm_bias, const VisitChunks& visit_chunks,
           float grad_scale, TensorView d_weight = {});

 private:
  void gather(MatrixView to, MatrixView x, TensorView rows) const;
  TensorView widened(const TensorView& weight, const LoraView& lora, int64_t v_begin) const;

  Ops& ops_;
  Transformer& transformer_;
  HeadLimits limits_;
  Buffer buffer_;
  // Regions of the buffer: a group's rows for the first six, a tile's for the next two. Then, for
  // an adapter: a chunk [W | B] and the numbers of its rows.
  struct Regions {
    std::byte *n = nullptr, *max = nullptr, *sum = nullptr, *target_logit = nullptr, *acc = nullptr;
    std::byte *target_rows = nullptr, *x_rows = nullptr, *d_rows = nullptr;
    std::byte *chunk = nullptr, *row_ids = nullptr;
  } r_;
  static int64_t carve(const ModelConfig& config, DType X, const HeadLimits& limits,
                       std::byte* base, Regions& r);
};

}  // namespace lema
