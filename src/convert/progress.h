// What convert and merge say while they work, and how they are stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace lema {

struct Progress {
  std::string_view stage;       // "hashing", "writing", "comparing"
  int64_t done = 0, total = 0;  // of the stage, in its unit: bytes, or blocks when comparing
};

// Called after every chunk. May throw, which ends the work with nothing left behind.
using ReportProgress = std::function<void(const Progress&)>;

}  // namespace lema
