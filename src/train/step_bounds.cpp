// A walk through all steps of a run, by the lengths of its rows alone.
#include "train/step_bounds.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace lema {
namespace {

// Tokens a micro-batch aims at when its size is left to us: weight-gradient products want at least
// these.
constexpr int64_t kAutoMicroTokens = 8192;
constexpr int64_t kWalkedRows = 4 << 20;  // a walk of some tenths of a second

// Sums of the n largest values.
class Largest {
 public:
  explicit Largest(std::vector<int64_t> values) : sums_(std::move(values)) {
    std::sort(sums_.begin(), sums_.end(), std::greater<>());
    std::partial_sum(sums_.begin(), sums_.end(), sums_.begin());
    sums_.insert(sums_.begin(), 0);
  }
  int64_t operator()(int64_t n) const {
    return sums_[std::min(sums_.size() - 1, static_cast<size_t>(n))];
  }

 private:
  std::vector<int64_t> sums_;
};

void widen(StepBounds& b, const std::vector<RowShape>& shapes, const std::vector<int64_t>& rows) {
  RowShape step, micro;
  for (size_t i = 0; i < rows.size(); ++i) {
    const RowShape& row = shapes[static_cast<size_t>(rows[i])];
    if (static_cast<int64_t>(i) % b.micro_rows == 0) micro = {};
    micro.tokens += row.tokens;
    step.tokens += row.tokens;
    step.trained += row.trained;
    b.micro_tokens = std::max(b.micro_tokens, micro.tokens);
  }
  b.tokens = std::max(b.tokens, step.tokens);
  b.target_rows = std::max(b.target_rows, step.trained);
}

void add(StepBounds::Mean& mean, const RowShape& row, double weight) {
  const auto tokens = static_cast<double>(row.tokens);
  mean.rows += weight;
  mean.tokens += weight * tokens;
  mean.trained += weight * static_cast<double>(row.trained);
  mean.squares += weight * tokens * tokens;
}

}  // namespace

DataFacts data_facts(const Dataset& train, const Dataset* eval) {
  DataFacts facts;
  for (const Dataset* data : {&train, eval}) {
    if (!data) continue;
    facts.bytes += memory_bytes(*data);
    std::vector<RowShape>& shapes = data == eval ? facts.eval : facts.train;
    for (const Row& row : data->rows) {
      shapes.push_back({std::ssize(row.ids),
                        std::accumulate(row.trained.begin(), row.trained.end(), int64_t{0})});
      for (const int32_t id : row.ids) {
        const auto i = static_cast<size_t>(id);
        if (i >= facts.used_ids.size()) facts.used_ids.resize(i + 1);
        facts.used_ids[i] = true;
      }
    }
  }
  return facts;
}

StepBounds step_bounds(const RunConfig& config, const DataFacts& data) {
  const std::vector<RowShape>&train = data.train, &eval = data.eval;
  std::vector<int64_t> lengths, trained;
  for (const std::vector<RowShape>* shapes : {&train, &eval})
    for (const RowShape& row : *shapes) {
      lengths.push_back(row.tokens);
      trained.push_back(row.trained);
    }
  StepBounds b;
  b.rows = std::min(config.train.batch_size, std::ssize(lengths));
  const Largest tokens_of(std::move(lengths)), targets_of(std::move(trained));
  b.row_tokens = tokens_of(1);
  b.micro_rows = config.train.micro_batch_size;
  if (b.micro_rows == 0) {
    b.micro_rows = b.rows;
    while (b.micro_rows > 1 && tokens_of(b.micro_rows) > kAutoMicroTokens) --b.micro_rows;
  }
  b.micro_rows = config.data.packing ? std::min(b.micro_rows, b.rows) : 1;
  b.scratch_rows = std::max(tokens_of(b.micro_rows), targets_of(b.rows));

  const Batcher order(std::max<int64_t>(1, std::ssize(train)), config.train.batch_size,
                      static_cast<uint64_t>(config.seed), config.data.shuffle);
  const int64_t steps = order.total_steps(config.train.epochs, config.train.max_steps);
  if (data.any_order || steps == 0 || steps > kWalkedRows / config.train.batch_size) {
    b.tokens = tokens_of(b.rows);
    b.micro_tokens = tokens_of(b.micro_rows);
    b.target_rows = targets_of(b.rows);
    for (const RowShape& row : train)
      add(b.mean, row, 1 / static_cast<double>(order.steps_per_epoch()));
    return b;
  }
  Batcher batches = order;
  BatchCursor cursor;
  for (int64_t step = 0; step < steps && !train.empty(); ++step) {
    const std::vector<int64_t> rows = batches.next(cursor);
    widen(b, train, rows);
    for (const int64_t row : rows)
      add(b.mean, train[static_cast<size_t>(row)], 1 / static_cast<double>(steps));
  }
  if (eval.empty()) return b;
  Batcher in_order(std::ssize(eval), config.train.batch_size, 0, false);
  cursor = {};
  for (int64_t step = 0; step < in_order.steps_per_epoch(); ++step)
    widen(b, eval, in_order.next(cursor));
  return b;
}

}  // namespace lema
