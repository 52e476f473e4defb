// Set-up of the spdlog default logger: messages on standard error, below a progress line that is
// rewritten in place where standard error is a terminal.
#include "core/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <mutex>

#include "core/error.h"
#include "core/file.h"

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

// train.log: a message that cannot be written is no reason to end a run; the first one is said.
class FileSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FileSink(const fs::path& path) : file_(File::append(path)) {
    set_pattern_("%Y-%m-%d %H:%M:%S %l %v");
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (failed_) return;
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    try {
      file_.write(line.data(), static_cast<int64_t>(line.size()));
    } catch (const Error& error) {
      failed_ = true;
      std::fprintf(stderr, "%s; the run goes on without its log\n", error.what());
    }
  }
  void flush_() override {}

  File file_;
  bool failed_ = false;
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
  spdlog::default_logger()->sinks().push_back(std::make_shared<FileSink>(path));
}

}  // namespace lema::log
