// The one exception type and the exit codes. Every layer throws Error; only main catches it.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace lema {

// The process exit code that main returns for an uncaught Error.
enum class ErrorCode {
  Internal = 1,            // broken invariant, device fault
  Usage = 2,               // command line or run config
  BadInput = 3,            // model, adapter, tokenizer or data file
  DoesNotFit = 4,          // memory budget or allocation
  Numeric = 5,             // non-finite loss, gradient or weight during steps
  Io = 74,                 // disk full, read or write error
  Interrupted = 75,        // stopped by a signal after a complete checkpoint was saved
  InterruptedEmpty = 130,  // stopped by a signal, nothing to save
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// fail(ErrorCode::BadInput, "{}: found {}, expected {}", path, a, b) throws Error.
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// check(condition, "message {}", x) throws Internal; always on. For invariants of our own code.
template <typename... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(ErrorCode::Internal, fmt::format(format, std::forward<Args>(args)...));
}

// `name` with control characters and terminal escapes written as \xNN, cut to 200 bytes: safe to
// print.
std::string escaped(std::string_view name);

}  // namespace lema
