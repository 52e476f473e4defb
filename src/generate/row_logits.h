// The logits of every position of a data set's rows, for comparison with other implementations.
// Behind `lema eval --task logits`.
#pragma once

#include <functional>
#include <string>

#include "data/dataset.h"
#include "generate/opened_model.h"

namespace lema {

// Writes a safetensors file with a tensor "line_N" (T, V) F32 for the row of line N: the logits
// after each of its tokens. Each row is a pass of its own. `report` is called with the number of
// rows done and may throw; the file appears when it is whole.
void write_row_logits(const ModelFolder& folder, const OpenOptions& options, const Dataset& dataset,
                      const fs::path& path, const std::function<void(int64_t)>& report);

}  // namespace lema
