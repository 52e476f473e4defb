// The settings nearest to a config's with which a run stays within a limit of memory or time. Used
// by `lema plan --fit` and, when a run does not fit, by the message that refuses it.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "train/step_bounds.h"

namespace lema {

struct FitGoal {
  enum class Kind { Vram, Ram, StepMs } kind = Kind::Vram;
  double limit = 0;  // bytes, or milliseconds
};
// "vram=2GiB", "ram=2.4GB", "step_ms=800"; Usage for anything else.
FitGoal parse_fit_goal(const std::string& text);
// "2.00 GiB of device memory", "800 ms a step".
std::string describe(const FitGoal& goal, double amount);

struct FitResult {
  bool fits = false;
  std::vector<std::pair<std::string, std::string>> changes;  // key, value: none where all is well
  RunConfig config;                                          // with the changes
  double amount = 0;  // what this config needs; the least reachable where nothing fits
};

// What a config takes of the goal's measure, for these rows; of one that cannot run, the least that
// it would.
struct Need {
  double amount = 0;
  bool can_run = true;
};
using Amount = std::function<Need(const RunConfig& config, const DataFacts& data)>;

// Sets the limit itself where the config has another budget or none: then what is placed keeps to
// it. Tries one setting beside that, the mildest first: what changes no result, then the size of
// micro-batches and tiles, then rows a step and the longest row; each no further than needed. Where
// no single one does, several.
FitResult fit(const RunConfig& config, const DataFacts& data, const FitGoal& goal,
              const Amount& amount);

// "train.batch_size=4 data.max_tokens=512".
std::string to_string(const std::vector<std::pair<std::string, std::string>>& changes);

}  // namespace lema
