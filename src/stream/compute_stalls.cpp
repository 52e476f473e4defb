// Pairs of timers; one whose end() never came is begun again.
#include "stream/compute_stalls.h"

namespace lema {

void ComputeStalls::begin() {
  if (ended_ == timers_.size())
    timers_.emplace_back(device_.create_timer(), device_.create_timer());
  device_.record(timers_[ended_].first, Queue::Compute);
}

void ComputeStalls::end() { device_.record(timers_[ended_++].second, Queue::Compute); }

double ComputeStalls::take_ms() {
  double ms = 0;
  for (size_t i = 0; i < ended_; ++i) ms += device_.elapsed_ms(timers_[i].first, timers_[i].second);
  ended_ = 0;
  return ms;
}

}  // namespace lema
