// The handlers behind signals.h. They do nothing but set a flag, which is all that is safe in a
// handler.
#include "core/signals.h"

namespace lema {
namespace {

volatile std::sig_atomic_t g_requested = 0;

void request_stop(int) { g_requested = 1; }

}  // namespace

StopSignals::StopSignals() {
  g_requested = 0;
  struct sigaction action {};
  action.sa_handler = request_stop;
  sigemptyset(&action.sa_mask);
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second signal takes its default course
  ::sigaction(SIGINT, &action, &former_int_);
  ::sigaction(SIGTERM, &action, &former_term_);
}

StopSignals::~StopSignals() {
  ::sigaction(SIGINT, &former_int_, nullptr);
  ::sigaction(SIGTERM, &former_term_, nullptr);
}

bool StopSignals::requested() { return g_requested != 0; }

}  // namespace lema
