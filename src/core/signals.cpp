// The handlers behind signals.h. They do only what is safe in one: atomic flags, write, _exit,
// raise.
#include "core/signals.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <exception>

#include "core/error.h"

namespace lema {
namespace {

std::atomic<int> g_shields = 0;  // StopSignals and StopDeferrals alive
std::atomic<bool> g_stop = false, g_save = false;

[[noreturn]] void leave() {
  constexpr char kMessage[] = "lema: error: stopped by a signal; nothing was written\n";
  static_cast<void>(!::write(STDERR_FILENO, kMessage, sizeof kMessage - 1));
  ::_exit(static_cast<int>(ErrorCode::InterruptedEmpty));
}

void on_stop(int signal) {
  if (g_shields == 0) leave();
  // Only a second Ctrl-C leaves at once: a terminal that closes says SIGHUP twice, and supervisors
  // repeat SIGTERM.
  if (g_stop.exchange(true) && signal == SIGINT) {
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    ::sigaction(signal, &standard, nullptr);
    ::raise(signal);  // delivered when this handler returns
  }
}

void on_save(int) { g_save = true; }

void answer(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

void install_signal_handlers() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction inherited {};
    ::sigaction(signal, nullptr, &inherited);
    if (inherited.sa_handler != SIG_IGN) answer(signal, on_stop);  // ignored by nohup, by shells
  }
  answer(SIGUSR1, on_save);
  answer(SIGPIPE, SIG_IGN);
  answer(SIGXFSZ, SIG_IGN);
}

StopSignals::StopSignals() {
  if (g_shields++ == 0) g_stop = false;  // of work before, as a chat's last turn
}
// Work that ends by an exception for a stop ends the process with what that one says: of the same
// stop said twice the second must not come between.
StopSignals::~StopSignals() {
  if (!g_stop || std::uncaught_exceptions() == 0) --g_shields;
}

bool StopSignals::requested() { return g_stop; }

void StopSignals::check() {
  if (g_stop) fail(ErrorCode::InterruptedEmpty, "stopped by a signal; nothing was written");
}

bool StopSignals::take_save_request() { return g_save.exchange(false); }

StopDeferral::StopDeferral() { ++g_shields; }
StopDeferral::~StopDeferral() {
  if (--g_shields == 0 && g_stop && std::uncaught_exceptions() == 0) leave();
}

}  // namespace lema
