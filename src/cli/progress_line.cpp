// Text and pace of the progress line.
#include "cli/progress_line.h"

#include <unistd.h>

#include <cstdio>

#include "core/error.h"
#include "core/signals.h"
#include "core/units.h"

namespace lema {

ProgressLine::ProgressLine() : terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (terminal_ && shown_) std::fputc('\n', stderr);
}

void ProgressLine::operator()(const Progress& progress) {
  StopSignals::check();
  const auto now = Clock::now();
  const auto pace = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10'000);
  if (stage_ != progress.stage) {
    stage_ = progress.stage;
    start_ = now;
    next_ = now + pace;
  }
  const bool last = terminal_ && shown_ && progress.done == progress.total;
  if (now < next_ && !last) return;
  next_ = now + pace;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const auto done = static_cast<double>(progress.done), total = static_cast<double>(progress.total);
  const double left = done > 0 ? seconds * (total - done) / done : 0;
  const std::string text = fmt::format("{} {:.0f} %, {} left", stage_,
                                       total > 0 ? 100 * done / total : 100, format_duration(left));
  std::fprintf(stderr, terminal_ ? "\r%-40s" : "%s\n", text.c_str());
  shown_ = true;
}

}  // namespace lema
