// Set-up of the spdlog default logger.
#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

namespace lema::log {

void start(bool verbose) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  sink->set_pattern("%^%v%$");
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("lema", sink));
  spdlog::set_level(verbose ? spdlog::level::debug : spdlog::level::info);
}

void progress(const std::string& line) {
  if (!::isatty(STDERR_FILENO)) {
    info("{}", line);
    return;
  }
  // The file sinks get every line; the terminal keeps the last.
  for (const auto& sink : spdlog::default_logger()->sinks())
    if (sink != spdlog::default_logger()->sinks().front())
      sink->log(spdlog::details::log_msg("lema", spdlog::level::info, line));
  std::fputs(("\r\x1b[K" + line).c_str(), stderr);
}

void add_file(const std::string& path) {
  auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
  sink->set_pattern("%Y-%m-%d %H:%M:%S %l %v");
  spdlog::default_logger()->sinks().push_back(sink);
  spdlog::default_logger()->flush_on(spdlog::level::info);
}

}  // namespace lema::log
