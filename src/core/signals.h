// Signals: a stop (SIGINT, SIGTERM, SIGHUP) and a wish to save (SIGUSR1), as flags that long work
// looks at between its steps. Installed by main.
//
//   nothing to lose       a stop ends the process at once with 130
//   StopSignals is alive  the first stop sets the flag; the work obeys it, or not
//   StopDeferral is alive the first stop is obeyed at its end
//   the second stop       ends the process by that signal
#pragma once

namespace lema {

// Also ignores SIGPIPE and SIGXFSZ: what cannot be written is an error of that write.
void install_signal_handlers();

// Nests with itself and with StopDeferral.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  ~StopSignals();
  // Threads: concurrent, all three.
  static bool requested();
  // InterruptedEmpty when a stop has been requested: nothing is written yet.
  static void check();
  // Whether SIGUSR1 has come since the last call.
  static bool take_save_request();
};

// For short writing that must not be cut; not for work that asks for the flag itself.
class StopDeferral {
 public:
  StopDeferral();
  StopDeferral(const StopDeferral&) = delete;
  ~StopDeferral();
};

}  // namespace lema
