// StepInputs: one step's ids, positions, sequences and targets in device memory.
#pragma once

#include <vector>

#include "data/batcher.h"
#include "device.h"
#include "model/transformer.h"
#include "stream/embedding_rows.h"

namespace lema {

class StepInputs {
 public:
  // For at most `tokens` tokens in at most `rows` sequences.
  StepInputs(Device& device, int64_t tokens, int64_t rows);
  static int64_t bytes(int64_t tokens, int64_t rows);

  // Uploads in the compute queue's order, positions as rows of `rope`; reads the ids' rows of
  // `embedding` unless that is null. The previous step's work must be complete.
  void upload(const StepBatch& batch, RopeTable& rope, EmbeddingRows* embedding);

  const std::vector<TokenBatch>& micro() const { return micro_; }
  // The rows of the step that have a target, ascending, and those targets: (n) I32 each.
  TensorView target_rows() const { return target_rows_; }
  TensorView targets() const { return targets_; }
  int64_t tokens() const { return tokens_; }

 private:
  Device& device_;
  int64_t max_tokens_, max_rows_;
  Buffer device_buffer_, host_buffer_;
  std::vector<TokenBatch> micro_;
  TensorView target_rows_, targets_;
  int64_t tokens_ = 0;
};

}  // namespace lema
