// The rule of growth and backing off.
#include "train/loss_scale.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "formats/json_fields.h"

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
  const JsonFields fields(value, place + ": loss_scale");
  scale_ = fields.required_number("scale", 1, 1e30);
  steps_ = fields.required_integer("steps", 0, kGrowthSteps - 1);
  skipped_ = fields.required_integer("skipped", 0, std::numeric_limits<int64_t>::max() / 2);
}

}  // namespace lema
