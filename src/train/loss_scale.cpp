// The rule of growth and backing off.
#include "train/loss_scale.h"

#include <cmath>

#include "core/error.h"
#include "train/saved_member.h"

namespace lema {

bool LossScale::accepts(double norm) {
  if (!is_on_) return true;
  if (std::isfinite(norm)) {
    if (++steps_ == kGrowthSteps) {
      scale_ *= 2;
      steps_ = 0;
    }
    return true;
  }
  if (scale_ <= 1)
    fail(ErrorCode::Numeric,
         "gradients are not finite in f16 at a loss scale of 1; set compute to bf16 or f32, or a "
         "lower optimizer.lr");
  scale_ /= 2;
  steps_ = 0;
  ++skipped_;
  return false;
}

Value LossScale::to_value() const {
  return Value::Object{{"scale", scale_}, {"steps", steps_}, {"skipped", skipped_}};
}

void LossScale::restore(const Value& value, const std::string& place) {
  const auto member = [&](const char* key) -> const Value& {
    return saved_member(value, "loss_scale", key, place);
  };
  scale_ = member("scale").as_number();
  steps_ = member("steps").as_int();
  skipped_ = member("skipped").as_int();
}

}  // namespace lema
