// Shuffling, the cut into steps, and packing. Everything here is a pure function of sizes, seed and
// cursor.
#include "data/batcher.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace lema {
namespace {

// The random numbers of one epoch, in order.
class EpochRng {
 public:
  EpochRng(uint64_t seed, int64_t epoch) : seed_(seed), epoch_(static_cast<uint32_t>(epoch)) {}

  // Uniform in [0, bound), bound > 0: the high half of word * bound, words that would favour some
  // results rejected.
  uint64_t below(uint64_t bound) {
    const uint64_t rejected = (0 - bound) % bound;  // 2^64 mod bound
    for (;;) {
      const auto product = static_cast<unsigned __int128>(word()) * bound;
      if (static_cast<uint64_t>(product) >= rejected) return static_cast<uint64_t>(product >> 64);
    }
  }

 private:
  uint64_t word() {
    const auto words = philox(seed_, RngStream::Shuffle, counter_++, epoch_);
    return uint64_t{words[1]} << 32 | words[0];
  }

  uint64_t seed_;
  uint32_t epoch_;
  uint64_t counter_ = 0;
};

void append(MicroBatch& batch, const Row& row) {
  constexpr auto kMaxTokens = static_cast<size_t>(std::numeric_limits<int32_t>::max());
  check(batch.ids.size() + row.ids.size() <= kMaxTokens, "micro-batch above {} tokens", kMaxTokens);
  const auto begin = static_cast<int32_t>(batch.ids.size()),
             length = static_cast<int32_t>(row.ids.size());
  batch.ids.insert(batch.ids.end(), row.ids.begin(), row.ids.end());
  for (size_t t = 0; t < row.ids.size(); ++t) {
    const bool trained = t + 1 < row.ids.size() && row.trained[t + 1];
    batch.positions.push_back(static_cast<int32_t>(t));
    batch.targets.push_back(trained ? row.ids[t + 1] : -1);
    batch.trained_tokens += trained;
  }
  batch.sequences.insert(batch.sequences.end(), {begin, length, begin, length});
}

}  // namespace

std::vector<int64_t> epoch_order(int64_t rows, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  EpochRng rng(seed, epoch);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

Batcher::Batcher(int64_t rows, int64_t batch_size, uint64_t seed, bool shuffle)
    : rows_(rows), batch_size_(batch_size), seed_(seed), shuffle_(shuffle) {
  if (rows < 1) fail(ErrorCode::BadInput, "the data set has no rows");
  check(batch_size >= 1, "batch size {}", batch_size);
}

std::vector<int64_t> Batcher::next(BatchCursor& cursor) {
  check(cursor.epoch >= 0 && cursor.position >= 0 && cursor.position < rows_,
        "cursor at row {} of {} in epoch {}", cursor.position, rows_, cursor.epoch);
  if (shuffle_ ? order_epoch_ != cursor.epoch : order_.empty()) {
    order_.resize(static_cast<size_t>(rows_));
    if (shuffle_)
      order_ = epoch_order(rows_, seed_, cursor.epoch);
    else
      std::iota(order_.begin(), order_.end(), 0);
    order_epoch_ = cursor.epoch;
  }
  const int64_t end = std::min(cursor.position + batch_size_, rows_);
  const std::vector<int64_t> rows(order_.begin() + cursor.position, order_.begin() + end);
  cursor = end == rows_ ? BatchCursor{cursor.epoch + 1, 0} : BatchCursor{cursor.epoch, end};
  return rows;
}

int64_t Batcher::total_steps(double epochs, int64_t max_steps) const {
  if (max_steps > 0) return max_steps;
  // 0.1 of 30 steps is 3.0000000000000004 in doubles: such dust is not a step.
  constexpr double kDust = 1e-9;
  return static_cast<int64_t>(
      std::ceil(epochs * static_cast<double>(steps_per_epoch()) * (1 - kDust)));
}

std::vector<MicroBatch> make_micro_batches(const Dataset& dataset,
                                           std::span<const int64_t> row_indices,
                                           int64_t micro_batch_size, bool packing) {
  size_t rows_each = packing ? static_cast<size_t>(micro_batch_size) : 1;
  if (rows_each == 0) rows_each = row_indices.size();
  std::vector<MicroBatch> batches;
  for (size_t i = 0; i < row_indices.size(); ++i) {
    if (i % rows_each == 0) batches.emplace_back();
    append(batches.back(), dataset.rows.at(static_cast<size_t>(row_indices[i])));
  }
  return batches;
}

StepBatch make_step_batch(const Dataset& dataset, std::span<const int64_t> row_indices,
                          int64_t micro_batch_size, bool packing) {
  StepBatch step;
  step.micro = make_micro_batches(dataset, row_indices, micro_batch_size, packing);
  for (const MicroBatch& batch : step.micro) {
    step.tokens += static_cast<int64_t>(batch.ids.size());
    step.trained_tokens += batch.trained_tokens;
  }
  return step;
}

}  // namespace lema
