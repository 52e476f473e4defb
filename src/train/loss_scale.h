// LossScale: the factor by which f16 gradients are multiplied, so that small ones do not vanish
// below f16's least number. It is halved when a step's gradients overflow, which makes that step no
// update, and doubled after 2,000 steps without. 1, and never changed, for other types. Owned by
// the Trainer; part of a checkpoint.
// Ref: arXiv:1710.03740, section 3.2; torch.amp.GradScaler has the same numbers.
#pragma once

#include <cstdint>

#include "core/value.h"

namespace lema {

class LossScale {
 public:
  explicit LossScale(bool is_on, double first = 65536) : is_on_(is_on), scale_(is_on ? first : 1) {}

  bool is_on() const { return is_on_; }
  float scale() const { return static_cast<float>(scale_); }
  // Steps that were no update, because their gradients were not finite.
  int64_t skipped() const { return skipped_; }

  // Whether a step with this norm of the scaled gradients is an update; the scale follows. Numeric
  // error where gradients overflow at a scale of 1.
  bool accepts(double norm);

  Value to_value() const;
  // BadInput, naming `place`, where a member is missing.
  void restore(const Value& value, const std::string& place);

 private:
  static constexpr int64_t kGrowthSteps = 2000;
  bool is_on_;
  double scale_;
  int64_t steps_ = 0, skipped_ = 0;  // steps: updates since the scale changed
};

}  // namespace lema
