// Batcher and packing: every row once per epoch, a state of two integers, unbiased orders, targets
// within rows.
#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "data/batcher.h"
#include "support/catch.h"

using namespace lema;

namespace {

Dataset three_rows() {
  Dataset dataset;
  dataset.rows.push_back({{1, 2, 3}, {0, 1, 1}, 1});
  dataset.rows.push_back({{4, 5, 6, 7}, {0, 0, 1, 1}, 2});
  dataset.rows.push_back({{8, 9}, {0, 1}, 3});
  return dataset;
}

}  // namespace

TEST_CASE("every row comes exactly once per epoch and steps never mix epochs") {
  for (const int64_t rows : {1, 2, 7, 64, 101}) {
    for (const int64_t batch_size : {1, 3, 8, 200}) {
      Batcher batcher(rows, batch_size, 42, true);
      BatchCursor cursor;
      for (int64_t epoch = 0; epoch < 3; ++epoch) {
        std::multiset<int64_t> seen;
        for (int64_t step = 0; step < batcher.steps_per_epoch(); ++step) {
          REQUIRE(cursor.epoch == epoch);
          const auto batch = batcher.next(cursor);
          const bool is_last = step + 1 == batcher.steps_per_epoch();
          REQUIRE(static_cast<int64_t>(batch.size()) ==
                  (is_last ? rows - step * batch_size : batch_size));
          seen.insert(batch.begin(), batch.end());
        }
        REQUIRE(cursor == BatchCursor{epoch + 1, 0});
        std::vector<int64_t> all(static_cast<size_t>(rows));
        std::iota(all.begin(), all.end(), 0);
        REQUIRE(std::equal(seen.begin(), seen.end(), all.begin(), all.end()));
      }
    }
  }
}

TEST_CASE("a batcher goes on from any cursor as if it had not stopped") {
  Batcher whole(23, 4, 7, true);
  BatchCursor cursor;
  for (int step = 0; step < 20; ++step) {
    BatchCursor saved = cursor;
    const auto expected = whole.next(cursor);
    Batcher resumed(23, 4, 7, true);
    CHECK(resumed.next(saved) == expected);
    CHECK(saved == cursor);
  }
}

TEST_CASE("orders differ by epoch and seed; without shuffle they are the file's") {
  CHECK(epoch_order(50, 1, 0) != epoch_order(50, 1, 1));
  CHECK(epoch_order(50, 1, 0) != epoch_order(50, 2, 0));
  CHECK(epoch_order(50, 1, 3) == epoch_order(50, 1, 3));
  Batcher in_order(5, 2, 1, false);
  BatchCursor cursor;
  CHECK(in_order.next(cursor) == std::vector<int64_t>{0, 1});
  CHECK(in_order.next(cursor) == std::vector<int64_t>{2, 3});
  CHECK(in_order.next(cursor) == std::vector<int64_t>{4});
  CHECK(in_order.next(cursor) == std::vector<int64_t>{0, 1});
}

TEST_CASE("the order of an epoch is pinned (by a Python twin): checkpoints rely on it") {
  CHECK(epoch_order(8, 42, 0) == std::vector<int64_t>{0, 4, 2, 7, 6, 3, 5, 1});
}

TEST_CASE("all 24 orders of 4 rows are equally frequent") {
  constexpr int kDraws = 24000;
  std::map<std::vector<int64_t>, int> counts;
  for (int64_t epoch = 0; epoch < kDraws; ++epoch) ++counts[epoch_order(4, 5, epoch)];
  REQUIRE(counts.size() == 24);
  double chi_squared = 0;
  for (const auto& [order, count] : counts)
    chi_squared += (count - 1000.0) * (count - 1000.0) / 1000.0;
  CHECK(chi_squared < 49.7);  // 23 degrees of freedom, p = 0.001
}

TEST_CASE("steps of fractional epochs round up, exact fractions do not") {
  const Batcher batcher(30, 1, 1, true);
  CHECK(batcher.total_steps(1, 0) == 30);
  CHECK(batcher.total_steps(0.1, 0) == 3);
  CHECK(batcher.total_steps(2.5, 0) == 75);
  CHECK(batcher.total_steps(0.01, 0) == 1);
  CHECK(batcher.total_steps(3, 7) == 7);
  CHECK(Batcher(10, 4, 1, true).steps_per_epoch() == 3);
  CHECK_THROWS_AS(Batcher(0, 4, 1, true), Error);
}

TEST_CASE("rows are packed end to end with targets inside each row") {
  const Dataset dataset = three_rows();
  const std::vector<int64_t> rows = {1, 0, 2};
  const auto batches = make_micro_batches(dataset, rows, 0, true);
  REQUIRE(batches.size() == 1);
  const MicroBatch& batch = batches[0];
  CHECK(batch.ids == std::vector<int32_t>{4, 5, 6, 7, 1, 2, 3, 8, 9});
  CHECK(batch.positions == std::vector<int32_t>{0, 1, 2, 3, 0, 1, 2, 0, 1});
  CHECK(batch.targets == std::vector<int32_t>{-1, 6, 7, -1, 2, 3, -1, 9, -1});
  CHECK(batch.sequences == std::vector<int32_t>{0, 4, 0, 4, 4, 3, 4, 3, 7, 2, 7, 2});
  CHECK(batch.trained_tokens == 5);
}

TEST_CASE("the split into micro-batches changes no row") {
  const Dataset dataset = three_rows();
  const std::vector<int64_t> rows = {2, 0, 1};
  const StepBatch whole = make_step_batch(dataset, rows, 0, true);
  for (const int64_t size : {1, 2, 3, 9}) {
    for (const bool packing : {true, false}) {
      const StepBatch step = make_step_batch(dataset, rows, size, packing);
      CHECK(step.micro.size() == static_cast<size_t>(packing ? (3 + size - 1) / size : 3));
      CHECK(step.tokens == whole.tokens);
      CHECK(step.trained_tokens == whole.trained_tokens);
      std::vector<int32_t> ids, targets, positions;
      for (const MicroBatch& batch : step.micro) {
        ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
        targets.insert(targets.end(), batch.targets.begin(), batch.targets.end());
        positions.insert(positions.end(), batch.positions.begin(), batch.positions.end());
      }
      CHECK(ids == whole.micro[0].ids);
      CHECK(targets == whole.micro[0].targets);
      CHECK(positions == whole.micro[0].positions);
    }
  }
  CHECK(make_step_batch(dataset, rows, 0, false).micro.size() == 3);
}
