// The process-wide log, on standard error and, in a run, also in train.log.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace lema::log {

using spdlog::debug;
using spdlog::error;
using spdlog::info;
using spdlog::warn;

// Plain "message" lines on standard error; called once by main.
void start(bool verbose);
// A line of progress: on a terminal it replaces the previous one, elsewhere it is an ordinary line.
void progress(const std::string& line);
// Ends a line that progress() has left open; every message through the log does so by itself.
void end_progress();
// Also appends to this file, with time stamps. Io when it cannot be opened.
void add_file(const std::string& path);

}  // namespace lema::log
