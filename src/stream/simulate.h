// The time of a pass from the times of its parts: replays what is submitted to the queues, in the
// order of submission. Each queue works in its own order; a wait holds its queue until the event
// was recorded. Fed by the step's trace (train/step_trace.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace lema {

// Host: whoever submits. What it submits begins no earlier than it has got to.
enum class Lane { Compute, H2D, D2H, Disk, Host };
inline constexpr size_t kLanes = 5;

struct TraceItem {
  enum class Kind { Work, Record, Wait } kind = Kind::Work;
  Lane lane = Lane::Compute;
  double seconds = 0;  // of Work
  int64_t event = 0;   // of Record and Wait; from 0
};

struct PassTime {
  double seconds = 0;  // until every lane is done
  double stall = 0;    // of which Compute stood waiting, before one of its items
  std::array<double, kLanes> busy = {};
};

// in_line: the work of all lanes but the disk is done by the one that submits it, as on the CPU
// device. A wait on an event that was not recorded is none, as on a device.
PassTime simulate(std::span<const TraceItem> trace, bool in_line);

}  // namespace lema
