// ComputeStalls: how long the compute queue has stood still at some points of its work, by two
// timers for each.
#pragma once

#include <utility>
#include <vector>

#include "device.h"

namespace lema {

class ComputeStalls {
 public:
  // Creates timers for so many; later ones as they are needed.
  ComputeStalls(Device& device, int64_t count);

  // A timer now, and one at the next end(): what is submitted or waited for between them is no
  // work.
  void begin();
  void end();
  // Milliseconds of all that have ended since the last call. The queue has reached them.
  double take_ms();

 private:
  void add();

  Device& device_;
  std::vector<std::pair<Event, Event>> timers_;  // reused
  size_t ended_ = 0;
};

}  // namespace lema
