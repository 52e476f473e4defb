// NumericGuard: whether a step becomes an update. Numbers that are not finite end the run or are
// left out (guard.nonfinite), losses far above the run's own are left out (guard.spike_zscore), and
// too many steps left out in a row end it (guard.max_skips). Owned by the Trainer; part of a
// checkpoint.
#pragma once

#include <string>

#include "formats/run_config.h"

namespace lema {

class NumericGuard {
 public:
  explicit NumericGuard(const RunConfig::Guard& limits) : limits_(limits) {}

  enum class Verdict { Update, Skip, Stop };
  // Of a step's loss and of the norm of its gradient before clipping; `reason` says why it is no
  // Update. Counts, and follows the loss of updates.
  Verdict judge(double loss, double norm, std::string& reason);
  // Steps left out so far.
  int64_t skipped() const { return skipped_; }

  Value to_value() const;
  // BadInput, naming `place`, where a member is missing.
  void restore(const Value& value, const std::string& place);

 private:
  // Standard deviations of `loss` above the mean of the losses so far; 0 while too few are known.
  double zscore(double loss) const;

  RunConfig::Guard limits_;
  int64_t skipped_ = 0, in_a_row_ = 0;
  int64_t updates_ = 0;            // whose losses these follow, newer ones with more weight:
  double mean_ = 0, variance_ = 0;
};

}  // namespace lema
