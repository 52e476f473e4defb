// The rules of numeric_guard.h. Ref: exponentially weighted mean and variance as in T. Finch,
// "Incremental calculation of weighted mean and variance" (2009), equations 123, 124 and 143.
#include "train/numeric_guard.h"

#include <cmath>

#include "train/saved_member.h"

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
  const auto member = [&](const char* key) -> const Value& {
    return saved_member(value, "guard", key, place);
  };
  skipped_ = member("skipped").as_int();
  in_a_row_ = member("in_a_row").as_int();
  updates_ = member("updates").as_int();
  mean_ = member("mean").as_number();
  variance_ = member("variance").as_number();
}

}  // namespace lema
