// RowLosses: the loss of every trained token of a data set, without gradient. Behind `lema eval
// --task loss`.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "data/dataset.h"
#include "generate/opened_model.h"

namespace lema {

struct RowLoss {
  int64_t line = 0;           // of the data set's file
  std::vector<float> losses;  // -log p of each trained token, in order
};

// One entry per row, in order. Rows are packed into passes; no row sees another. Usage error when a
// row is longer than the model's positions. `report` is called with the number of rows done and may
// throw.
std::vector<RowLoss> row_losses(const ModelFolder& folder, const OpenOptions& options,
                                const Dataset& dataset, const std::function<void(int64_t)>& report);

}  // namespace lema
