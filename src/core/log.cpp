// Set-up of the spdlog default logger: messages on standard error, below a progress line that is
// rewritten in place where standard error is a terminal.
#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>

#include "core/error.h"

namespace lema::log {
namespace {

class TerminalSink final : public spdlog::sinks::stderr_color_sink_mt {
 public:
  void log(const spdlog::details::log_msg& message) override {
    end_line();
    spdlog::sinks::stderr_color_sink_mt::log(message);
  }
  void rewrite_line(const std::string& line) {
    std::fputs(("\r\x1b[K" + line).c_str(), stderr);
    open_ = true;
  }
  void end_line() {
    if (open_.exchange(false)) std::fputc('\n', stderr);
  }

 private:
  std::atomic<bool> open_ = false;
};

// The first sink, put there by start().
TerminalSink* terminal() {
  const auto& sinks = spdlog::default_logger()->sinks();
  return sinks.empty() ? nullptr : dynamic_cast<TerminalSink*>(sinks.front().get());
}

}  // namespace

void start(bool verbose) {
  auto sink = std::make_shared<TerminalSink>();
  sink->set_pattern("%^%v%$");
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("lema", sink));
  spdlog::set_level(verbose ? spdlog::level::debug : spdlog::level::info);
}

void progress(const std::string& line) {
  TerminalSink* sink = ::isatty(STDERR_FILENO) ? terminal() : nullptr;
  // The file sinks get every line; the terminal keeps the last.
  if (sink) sink->set_level(spdlog::level::off);
  info("{}", line);
  if (!sink) return;
  sink->set_level(spdlog::level::trace);
  sink->rewrite_line(line);
}

void end_progress() {
  if (TerminalSink* sink = terminal()) sink->end_line();
}

void add_file(const std::string& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    sink->set_pattern("%Y-%m-%d %H:%M:%S %l %v");
    spdlog::default_logger()->sinks().push_back(sink);
  } catch (const spdlog::spdlog_ex& error) {
    fail(ErrorCode::Io, "{}", error.what());
  }
  spdlog::default_logger()->flush_on(spdlog::level::info);
}

}  // namespace lema::log
