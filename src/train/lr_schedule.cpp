// The four schedules. Called by the training loop once a step.
#include "train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace lema {

double LrSchedule::at(int64_t step) const {
  if (step < warmup_steps)
    return lr * static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup_steps));
  const auto span = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  const double p = std::min(1.0, static_cast<double>(step - warmup_steps) / span);
  double share = 1;
  if (name == "cosine") {
    share = 0.5 * (1 + std::cos(std::numbers::pi * p));
  } else if (name == "linear") {
    share = 1 - p;
  } else if (name == "wsd") {
    const double decay = std::max(1.0, std::ceil(0.2 * static_cast<double>(total_steps)));
    share = std::clamp(static_cast<double>(total_steps - step) / decay, 0.0, 1.0);
  } else {
    check(name == "constant", "schedule {}", name);
    return lr;
  }
  return lr * (min_lr_ratio + (1 - min_lr_ratio) * share);
}

int64_t warmup_steps(double warmup, int64_t total_steps) {
  if (warmup >= 1) return static_cast<int64_t>(warmup);
  return static_cast<int64_t>(std::ceil(warmup * static_cast<double>(total_steps)));
}

}  // namespace lema
