// Pairs of timers; one whose end() never came is begun again.
#include "stream/compute_stalls.h"

namespace lema {

ComputeStalls::ComputeStalls(Device& device, int64_t count) : device_(device) {
  for (int64_t i = 0; i < count; ++i) add();
}

void ComputeStalls::add() {
  const Event begin = device_.create_timer();
  timers_.emplace_back(begin, device_.create_timer());
}

void ComputeStalls::begin() {
  if (ended_ == timers_.size()) add();
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
