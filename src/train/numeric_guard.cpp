// The rules of numeric_guard.h. Ref: exponentially weighted mean and variance as in T. Finch,
// "Incremental calculation of weighted mean and variance" (2009), equations 123, 124 and 143.
#include "train/numeric_guard.h"

#include <cmath>
#include <limits>

#include "formats/json_fields.h"

namespace lema {
namespace {

constexpr double kWeight = 0.02;        // of the newest loss: a memory of about 50 steps
constexpr int64_t kLeastUpdates = 20;   // before a deviation says anything

}  // namespace

NumericGuard::Verdict NumericGuard::judge(double loss, double norm, std::string& reason) {
  const bool is_finite = std::isfinite(loss) && std::isfinite(norm);
  const double z = is_finite ? zscore(loss) : 0;
  if (is_finite && (limits_.spike_zscore == 0 || z <= limits_.spike_zscore)) {
    const double difference = updates_ == 0 ? 0 : loss - mean_;
    mean_ = updates_ == 0 ? loss : mean_ + kWeight * difference;
    variance_ = (1 - kWeight) * (variance_ + kWeight * difference * difference);
    ++updates_;
    in_a_row_ = 0;
    return Verdict::Update;
  }
  reason = is_finite ? fmt::format("loss {:.4f} lies {:.1f} standard deviations above the {:.4f} "
                                   "of the steps before",
                                   loss, z, mean_)
                     : fmt::format("loss {}, gradient norm {}", loss, norm);
  if (!is_finite && limits_.nonfinite == "stop") return Verdict::Stop;
  ++skipped_;
  if (++in_a_row_ <= limits_.max_skips) return Verdict::Skip;
  reason += fmt::format(" (guard.max_skips is {})", limits_.max_skips);
  return Verdict::Stop;
}

double NumericGuard::zscore(double loss) const {
  return updates_ < kLeastUpdates || variance_ == 0 ? 0 : (loss - mean_) / std::sqrt(variance_);
}

Value NumericGuard::to_value() const {
  return Value::Object{{"skipped", skipped_},
                       {"in_a_row", in_a_row_},
                       {"updates", updates_},
                       {"mean", mean_},
                       {"variance", variance_}};
}

void NumericGuard::restore(const Value& value, const std::string& place) {
  const JsonFields fields(value, place + ": guard");
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 2;
  skipped_ = fields.required_integer("skipped", 0, kMost);
  in_a_row_ = fields.required_integer("in_a_row", 0, kMost);
  updates_ = fields.required_integer("updates", 0, kMost);
  mean_ = fields.required_number("mean", -1e300, 1e300);
  variance_ = fields.required_number("variance", 0, 1e300);
}

}  // namespace lema
