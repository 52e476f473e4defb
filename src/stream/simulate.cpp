// One clock per lane; an event is the time of its lane when it was recorded.
#include "stream/simulate.h"

#include <algorithm>
#include <map>

#include "core/error.h"

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

std::vector<TraceItem> trace_of(const Program& program, std::span<const UnitTime> units,
                                int64_t slots) {
  using Kind = TraceItem::Kind;
  std::vector<TraceItem> trace;
  const auto copied = [](int64_t slot) { return slot; };
  const auto released = [slots](int64_t slot) { return slots + slot; };
  const auto read = [slots](int64_t slot) { return 2 * slots + slot; };
  for (const Instruction& i : program.instructions) {
    const UnitTime& unit = units[static_cast<size_t>(i.unit)];
    switch (i.kind) {
      case Instruction::Kind::Load:
        if (unit.disk > 0) {
          trace.push_back({Kind::Work, Lane::Disk, unit.disk});
          trace.push_back({Kind::Record, Lane::Disk, 0, read(i.slot)});
          trace.push_back({Kind::Wait, Lane::H2D, 0, read(i.slot)});
        }
        trace.push_back({Kind::Wait, Lane::H2D, 0, released(i.slot)});
        trace.push_back({Kind::Work, Lane::H2D, unit.copy});
        trace.push_back({Kind::Record, Lane::H2D, 0, copied(i.slot)});
        break;
      case Instruction::Kind::Visit:
        if (i.slot >= 0) trace.push_back({Kind::Wait, Lane::Compute, 0, copied(i.slot)});
        trace.push_back({Kind::Work, Lane::Compute, unit.compute});
        break;
      case Instruction::Kind::Release:
        if (i.slot >= 0) trace.push_back({Kind::Record, Lane::Compute, 0, released(i.slot)});
        break;
    }
  }
  return trace;
}

int64_t best_slot_count(std::span<const int64_t> visits, std::span<const UnitTime> units,
                        int64_t most) {
  constexpr int kPasses = 3;  // the first two fill the ring and make it turn
  const std::vector<bool> none(units.size(), false);
  int64_t best = 2;
  double least = 0;
  for (int64_t slots = 2; slots <= std::max<int64_t>(2, most); ++slots) {
    RingState state(static_cast<size_t>(slots), -1);
    double seconds = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
      const Program program = make_program(visits, none, state);
      check_program(program, visits, none, state);
      seconds = simulate(trace_of(program, units, slots), false).seconds;
      state = program.final_state;
    }
    if (slots > 2 && seconds >= least) continue;
    best = slots;
    least = seconds;
  }
  return best;
}

}  // namespace lema
