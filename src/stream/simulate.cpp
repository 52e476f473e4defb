// One clock per lane; an event is the time of its lane when it was recorded.
#include "stream/simulate.h"

#include <algorithm>
#include <map>

namespace lema {

PassTime simulate(std::span<const TraceItem> trace, bool in_line) {
  PassTime pass;
  std::array<double, kLanes> clock = {};
  const auto clock_of = [&](Lane lane) -> double& {
    return clock[static_cast<size_t>(in_line && lane != Lane::Disk ? Lane::Compute : lane)];
  };
  double& compute = clock_of(Lane::Compute);
  std::map<int64_t, double> recorded;
  for (const TraceItem& item : trace) {
    double& now = clock_of(item.lane);
    const auto wait_until = [&](double time) {
      if (time <= now) return;
      if (&now == &compute) pass.stall += time - now;
      now = time;
    };
    wait_until(clock_of(Lane::Host));
    switch (item.kind) {
      case TraceItem::Kind::Work:
        now += item.seconds;
        pass.busy[static_cast<size_t>(item.lane)] += item.seconds;
        break;
      case TraceItem::Kind::Record:
        recorded[item.event] = now;
        break;
      case TraceItem::Kind::Wait:
        if (const auto found = recorded.find(item.event); found != recorded.end())
          wait_until(found->second);
        break;
    }
  }
  pass.seconds = *std::max_element(clock.begin(), clock.end());
  return pass;
}

}  // namespace lema
