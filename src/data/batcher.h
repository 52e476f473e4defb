// Batcher: which rows each optimizer step takes, and their packing into micro-batches. Its whole
// state is two integers, so a resumed run goes on with the same batches. Called by the trainer and
// by evaluation.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/dataset.h"

namespace lema {

// Where the next step begins: `position` rows of `epoch` are already taken.
struct BatchCursor {
  int64_t epoch = 0, position = 0;
  bool operator==(const BatchCursor&) const = default;
};

// The order of the rows in one epoch: a permutation that depends on seed and epoch only
// (Fisher-Yates over RngStream::Shuffle; bounded numbers without bias by rejection, Ref:
// arXiv:1805.10941).
std::vector<int64_t> epoch_order(int64_t rows, uint64_t seed, int64_t epoch);

class Batcher {
 public:
  // `shuffle` false: file order in every epoch. BadInput when there are no rows.
  Batcher(int64_t rows, int64_t batch_size, uint64_t seed, bool shuffle);

  // Rows of the next optimizer step, and moves the cursor. The last step of an epoch may be
  // smaller; a step never mixes epochs; every row comes once per epoch.
  std::vector<int64_t> next(BatchCursor& cursor);

  int64_t steps_per_epoch() const { return (rows_ + batch_size_ - 1) / batch_size_; }
  // max_steps when it is positive, else the steps of `epochs` (fractions round up).
  int64_t total_steps(double epochs, int64_t max_steps) const;

 private:
  int64_t rows_, batch_size_;
  uint64_t seed_;
  bool shuffle_;
  int64_t order_epoch_ = -1;  // the epoch that order_ belongs to
  std::vector<int64_t> order_;
};

// Rows packed end to end, N tokens in S sequences; attention and positions stay within a sequence.
struct MicroBatch {
  std::vector<int32_t> ids;        // (N)
  std::vector<int32_t> positions;  // (N) from 0 in each sequence
  std::vector<int32_t>
      targets;  // (N) the next id of the same row where that one is trained, else -1
  std::vector<int32_t>
      sequences;  // (S, 4) q_begin, q_len, kv_begin, kv_len, as Ops::attention takes them
  int64_t trained_tokens = 0;  // targets that are not -1
};

// `micro_batch_size` rows of the data set per micro-batch, in the order of `row_indices`; 0: all in
// one. Without `packing` one row per micro-batch.
std::vector<MicroBatch> make_micro_batches(const Dataset& dataset,
                                           std::span<const int64_t> row_indices,
                                           int64_t micro_batch_size, bool packing);

// One optimizer step. Its loss is the mean over trained_tokens, however they are split.
struct StepBatch {
  std::vector<MicroBatch> micro;
  int64_t tokens = 0, trained_tokens = 0;
};
StepBatch make_step_batch(const Dataset& dataset, std::span<const int64_t> row_indices,
                          int64_t micro_batch_size, bool packing);

}  // namespace lema
