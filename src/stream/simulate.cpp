// One clock per lane; an event is the time of its lane when it was recorded.
#include "stream/simulate.h"

#include <algorithm>
#include <map>

namespace lema {

PassTime simulate(std::span<const TraceItem> trace, bool in_line) {
  PassTime pass;
  std::array<double, kLanes> clock = {};
  std::map<int64_t, double> recorded;
  for (const TraceItem& item : trace) {
    const size_t lane = static_cast<size_t>(item.lane);
    double& now = clock[in_line ? 0 : lane];
    switch (item.kind) {
      case TraceItem::Kind::Work:
        now += item.seconds;
        pass.busy[lane] += item.seconds;
        break;
      case TraceItem::Kind::Record:
        recorded[item.event] = now;
        break;
      case TraceItem::Kind::Wait:
        if (const auto found = recorded.find(item.event);
            found != recorded.end() && found->second > now) {
          if (item.lane == Lane::Compute) pass.stall += found->second - now;
          now = found->second;
        }
        break;
    }
  }
  pass.seconds = *std::max_element(clock.begin(), clock.end());
  return pass;
}

}  // namespace lema
