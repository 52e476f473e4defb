// What a plan must know of a run's rows, and the largest step that the run will make of them, in
// every measure that sizes a buffer. Worked out before anything is allocated; read by the run plan.
#pragma once

#include <cstdint>
#include <vector>

#include "data/batcher.h"
#include "formats/run_config.h"

namespace lema {

struct RowShape {
  int64_t tokens = 0, trained = 0;
};

struct DataFacts {
  std::vector<RowShape> train, eval;
  int64_t bytes = 0;           // of the rows in memory
  bool any_order = false;      // steps may hold other rows than the run's own
  std::vector<bool> used_ids;  // by id, as far as the highest that occurs
};
// `eval` may be null.
DataFacts data_facts(const Dataset& train, const Dataset* eval);

struct StepBounds {
  int64_t rows = 0;          // sequences in a step
  int64_t tokens = 0;        // tokens in a step
  int64_t micro_rows = 0;    // rows per micro-batch, resolved from `auto`
  int64_t micro_tokens = 0;  // tokens in a micro-batch
  int64_t target_rows = 0;   // trained tokens in a step
  int64_t row_tokens = 0;    // the longest row
  // Tokens of the largest micro-batch or trained tokens of the largest step in any order of the
  // rows: sizes the kernels' scratch, whose size must not change when a run goes on longer.
  int64_t scratch_rows = 0;

  // The mean of the training steps, which sets their time.
  struct Mean {
    double rows = 0, tokens = 0, trained = 0;
    double squares = 0;  // of the lengths of the rows, summed
  } mean;
};

// Over the steps of a run in their order, evaluation included (an empty set is skipped). A run that
// visits more than some million rows is not walked through, nor one whose steps may hold any rows:
// then of the worst order.
StepBounds step_bounds(const RunConfig& config, const DataFacts& data);

}  // namespace lema
