// Stop requests: SIGINT and SIGTERM as a flag that long work looks at between its steps.
#pragma once

#include <csignal>

namespace lema {

// While one is alive the first SIGINT or SIGTERM only sets the flag; a second one of a kind ends
// the process as it would have without us. One at a time; the destructor puts the former handlers
// back.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  ~StopSignals();
  // Threads: concurrent.
  static bool requested();

 private:
  struct sigaction former_int_ {
  }, former_term_{};
};

}  // namespace lema
