// The line that convert and merge show while they work, on standard error.
#pragma once

#include <chrono>

#include "convert/progress.h"

namespace lema {

// On a terminal one line that rewrites itself ten times a second; else a line of its own every ten
// seconds.
class ProgressLine {
 public:
  ProgressLine();
  // Ends the line.
  ~ProgressLine();
  // Shows it; then InterruptedEmpty when a stop signal has come (StopSignals).
  void operator()(const Progress& progress);

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_;
  bool shown_ = false;
  std::string_view stage_;
  Clock::time_point start_, next_;
};

}  // namespace lema
